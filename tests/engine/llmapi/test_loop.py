"""One request after another through the LLM API's interface: deltas, ends, cancels, deadlines, errors, each answered exactly once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from keyahead.engine.contract import ContractError, EngineRequest, EngineResponse
from keyahead.engine.llmapi.loop import LlmLoop

WAIT_S = 10
PATTERN = (20, 30, 40, 50)
"""The stand-in goes on with it."""
LONG = 900


@dataclass
class Caller:
    """Collects what it is sent."""

    responses: list[EngineResponse] = field(default_factory=list)
    error: str = ""
    gone: bool = False
    first: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def send(self, response: EngineResponse, *, final: bool) -> None:
        assert not self.ended.is_set()
        self.responses.append(response)
        self.first.set()
        if final:
            self.ended.set()

    def fail(self, message: str) -> None:
        assert not self.ended.is_set()
        self.error = message
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.gone

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for each in self.responses for token in each.output_ids)


def ask(loop: LlmLoop, **fields: Any) -> Caller:
    """A request's whole answer."""
    caller = Caller()
    loop.submit(EngineRequest(**{"input_ids": PATTERN * 2, "max_new_tokens": 6, **fields}), caller)
    assert caller.ended.wait(WAIT_S)
    return caller


def test_an_answer_comes_at_once_or_as_it_grows(loop: LlmLoop) -> None:
    """The same tokens either way, and the prompt only if it is asked for."""
    expected = (20, 30, 40, 50, 20, 30)
    assert [each.output_ids for each in ask(loop).responses] == [expected]
    streamed = ask(loop, streaming=True)
    assert streamed.tokens == expected
    assert len(streamed.responses) == 6
    assert ask(loop, exclude_input=False).tokens == PATTERN * 2 + expected


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", [{"end_id": 40}, {"stop_words": ((40,),)}])
def test_an_end_ends_and_is_left_out(loop: LlmLoop, how: dict[str, Any], streaming: bool) -> None:
    """Whether TensorRT-LLM leaves it in or not."""
    assert ask(loop, streaming=streaming, **how).tokens == (20, 30)


def test_log_probabilities_belong_to_their_tokens(loop: LlmLoop) -> None:
    """As many as tokens, also where a stop word was taken out."""
    answer = ask(loop, return_log_probs=True, stop_words=((40,),)).responses[0]
    assert answer.output_ids == (20, 30)
    assert answer.log_probs == (-0.5, -0.5)


def test_statistics_come_with_the_last_response(loop: LlmLoop) -> None:
    """On the executor's clock, in nanoseconds."""
    responses = ask(loop, streaming=True, return_perf_metrics=True).responses
    assert [each.perf is not None for each in responses] == [False] * 5 + [True]
    perf = responses[-1].perf
    assert perf is not None
    assert perf.arrival_ns <= perf.first_scheduled_ns <= perf.first_token_ns < perf.last_token_ns
    assert (perf.total_blocks, perf.new_blocks, perf.reused_blocks) == (1, 1, 0)
    assert (perf.drafts, perf.accepted_drafts, perf.acceptance_rate) == (2, 1, 0.5)


def test_a_bias_decides_the_token(loop: LlmLoop) -> None:
    """It arrives as PyTorch's tensor."""
    bias = np.full(500, -1e9, np.float32)
    bias[77] = 0
    assert ask(loop, max_new_tokens=1, embedding_bias=bias).tokens == (77,)


def test_kv_is_shared_within_a_namespace_only(loop: LlmLoop) -> None:
    """The namespace is the cache's salt."""
    prompt = tuple(range(100, 164))

    def reused(namespace: str) -> int:
        perf = ask(loop, input_ids=prompt, namespace=namespace, return_perf_metrics=True).responses[-1].perf
        assert perf is not None
        return perf.reused_blocks

    assert [reused("a"), reused("a"), reused("b"), reused("")] == [0, 2, 0, 0]


def test_a_cancel_ends_a_request_wherever_it_is(loop: LlmLoop) -> None:
    """At once after it was queued, and in the middle; afterwards it is harmless, and the executor is free again."""
    for wait_first in (False, True):
        caller = Caller()
        job = loop.submit(EngineRequest(PATTERN, LONG, streaming=True), caller)
        if wait_first:
            assert caller.first.wait(WAIT_S)
        loop.cancel(job)
        assert caller.ended.wait(WAIT_S)
        assert caller.error.startswith("CANCELLED: ")
        loop.cancel(job)
    assert len(ask(loop).tokens) == 6


def test_a_caller_who_is_gone_is_noticed(loop: LlmLoop) -> None:
    """Without a word from it."""
    caller = Caller()
    loop.submit(EngineRequest(PATTERN, LONG, streaming=True), caller)
    assert caller.first.wait(WAIT_S)
    caller.gone = True
    assert caller.ended.wait(WAIT_S)
    assert caller.error.startswith("CANCELLED: ")


def test_a_deadline_ends_a_request(loop: LlmLoop) -> None:
    """What had come by then has been sent; one that has passed is refused."""
    caller = ask(loop, max_new_tokens=LONG, streaming=True, deadline_ms=100)
    assert caller.error.startswith("DEADLINE_EXCEEDED: ")
    assert 0 < len(caller.tokens) < LONG
    with pytest.raises(ContractError, match=r"^deadline_ms: already past"):
        loop.submit(EngineRequest(PATTERN, deadline_ms=0), Caller())


def test_a_full_queue_refuses(loop: LlmLoop) -> None:
    """The seventh of six."""
    running = [Caller() for _ in range(6)]
    jobs = [loop.submit(EngineRequest(PATTERN, LONG), each) for each in running]
    assert ask(loop).error.startswith("RESOURCE_EXHAUSTED: ")
    for job in jobs:
        loop.cancel(job)
    assert all(each.ended.wait(WAIT_S) for each in running)


def test_a_failed_request_is_alone(loop: LlmLoop, crashes: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """It says so, without what the error says of the prompt, and the engine serves on."""
    assert ask(loop, input_ids=(12, 99)).error == "UNAVAILABLE: the engine failed"
    assert "RequestError" in caplog.text
    assert "99" not in caplog.text
    assert len(ask(loop).tokens) == 6
    assert crashes == []


def test_what_the_llm_api_refuses_is_the_callers_mistake(loop: LlmLoop) -> None:
    """Its ValueError is passed on."""
    assert ask(loop, top_k=-1).error == "INVALID_ARGUMENT: the LLM API refuses it: require top_k >= 0, got top_k=-1"


def test_a_lost_executor_ends_everything(loop: LlmLoop, crashes: list[str]) -> None:
    """All callers are told first."""
    other = Caller()
    loop.submit(EngineRequest(PATTERN, LONG), other)
    assert ask(loop, input_ids=(13,)).error == "UNAVAILABLE: the engine failed"
    assert other.ended.wait(WAIT_S)
    assert other.error == "UNAVAILABLE: the engine failed"
    until = time.monotonic() + WAIT_S
    while not crashes and time.monotonic() < until:
        time.sleep(0.01)
    assert crashes


def test_closing_tells_who_waits(runtime: Any) -> None:
    """And takes nobody new."""
    from tests.engine.llmapi.conftest import ARGUMENTS, LIMITS  # noqa: PLC0415

    serving, caller = LlmLoop(runtime.Llm(ARGUMENTS), LIMITS, runtime.Crash, lambda: None), Caller()
    serving.submit(EngineRequest(PATTERN, LONG, streaming=True), caller)
    assert caller.first.wait(WAIT_S)
    serving.close()
    assert caller.error == "UNAVAILABLE: the engine is shutting down"
