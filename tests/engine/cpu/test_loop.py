"""The real engine: batcher, paged attention and a real, small model in this process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai
import pytest

from keyahead.engine.contract import ContractError, EngineRequest
from keyahead.engine.cpu.loop import EngineLoop
from keyahead.engine.cpu.runner import Runner
from keyahead.engine.cpu.scheduler import MAX_CHUNK, Limits, Step
from tests.engine.cpu.conftest import Collector, Engine


def genai_greedy(folder: Path, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """What openvino_genai's own pipeline decodes from the same model."""
    pipeline = openvino_genai.LLMPipeline(str(folder), "CPU")
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.do_sample, config.apply_chat_template, config.ignore_eos = num_tokens, False, False, True
    outputs = []
    for ids in prompts:
        tokens = ov.Tensor(np.array([ids], dtype=np.int64))
        mask = ov.Tensor(np.ones((1, len(ids)), dtype=np.int64))
        outputs.append(list(pipeline.generate(openvino_genai.TokenizedInputs(tokens, mask), config).tokens[0]))
    return outputs


def agreeing(a: list[int], b: list[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_greedy_output_is_that_of_openvino_genai(engine: Engine, smol_folder: Path) -> None:
    """Token for token the same as an independent pipeline, but for ties that the shape of a batch decides."""
    prompts = [engine.prompt(length, offset=700 * length) for length in (3, 31, 32, 33, 64, 65, 100)]
    expected = genai_greedy(smol_folder, prompts, 16)
    ours = [engine.ask(ids, max_new_tokens=16).tokens for ids in prompts]
    same = sum(agreeing(a, b) == 16 for a, b in zip(expected, ours, strict=True))
    assert same >= len(prompts) - 1  # benchmarks/greedy.py measures how rare a tie is, and its logit gap


def test_batched_output_is_that_of_one_at_a_time(engine: Engine) -> None:
    """Eight sequences side by side decode what each decodes alone."""
    prompts = [engine.prompt(40 + i, offset=900 * i) for i in range(8)]
    alone = [engine.ask(ids).tokens for ids in prompts]
    started = [engine.start(ids, namespace="fresh") for ids in prompts]
    for client, _ in started:
        assert client.ended.wait(60)
    same = sum(client.tokens == tokens for (client, _), tokens in zip(started, alone, strict=True))
    assert same >= 7


@pytest.mark.parametrize("wrong", [0, 1, 3, 7, 8])
def test_a_request_with_drafts_is_one_step(engine: Engine, wrong: int) -> None:
    """It returns the drafts up to the first wrong one and one token of the model, after a single forward pass."""
    ids = engine.prompt(90)
    expected = engine.ask(ids, max_new_tokens=9).tokens
    drafts = expected[:8]
    if wrong < 8:
        drafts[wrong] = (drafts[wrong] + 1) % 1000
    steps = engine.loop.counters.steps
    client = engine.ask(ids, draft_ids=tuple(drafts), max_new_tokens=9)
    assert engine.loop.counters.steps == steps + 1
    assert client.tokens == expected[: wrong + 1]
    assert client.perf is not None
    assert (client.perf.drafts, client.perf.accepted_drafts) == (8, wrong)


def test_wrong_drafts_do_not_change_what_comes_later(engine: Engine) -> None:
    """After a rejected draft the same prompt still decodes the same: nothing is read from a rejected token's KV."""
    ids = engine.prompt(61)
    expected = engine.ask(ids, max_new_tokens=12).tokens
    for _ in range(3):
        engine.ask(ids, draft_ids=(5, 6, 7, 8, 9), max_new_tokens=6)
        assert engine.ask(ids, max_new_tokens=12).tokens == expected


def test_one_more_character_prefills_few_tokens(engine: Engine) -> None:
    """Typing on into a 1,500-token prompt computes fewer than 16 tokens, whatever the key."""
    ids = engine.prompt(1500)
    engine.ask(ids[:-12], max_new_tokens=1)
    for length in range(-12, 0):
        before = engine.loop.counters.prefill_tokens
        engine.ask(ids[:length], max_new_tokens=1)
        assert engine.loop.counters.prefill_tokens - before < 16


def test_sessions_share_a_common_beginning(engine: Engine) -> None:
    """Another session with the same first 300 tokens computes only what differs, and gets the same answer as from a cold engine."""
    common, tail = engine.prompt(300), engine.prompt(20, offset=9000)
    cold = engine.ask(common + tail, namespace="cold").tokens
    engine.ask(common + engine.prompt(20, offset=5000))
    before = engine.loop.counters.prefill_tokens
    assert engine.ask(common + tail).tokens == cold
    assert engine.loop.counters.prefill_tokens - before <= len(tail) + 32


def test_eviction_under_a_small_budget_changes_no_answer(engine: Engine, runner: Runner) -> None:
    """More prompts than the KV budget holds: the oldest is forgotten, recomputed, and answers the same."""
    prompts = [engine.prompt(100, offset=400 * i) for i in range(6)]
    roomy = [engine.ask(ids, max_new_tokens=4).tokens for ids in prompts]
    small = Engine(EngineLoop(runner, Limits(runner.vocab_size), 9, engine.loop._on_crash), engine.tokenizer)
    for _ in range(2):
        assert [small.ask(ids, max_new_tokens=4).tokens for ids in prompts] == roomy
    assert small.loop._scheduler.pool.num_evicted > 20
    small.loop.close()


def test_a_typist_who_cancels_every_request_still_gets_answers(engine: Engine) -> None:
    """Each cancelled prefill keeps its finished tokens, so a later request finds a warm prompt."""
    ids = engine.prompt(500)
    for length in range(400, 490, 5):
        _, sequence = engine.start(ids[:length])
        engine.wait_for_steps(3)
        engine.loop.cancel(sequence)
    before = engine.loop.counters.prefill_tokens
    assert engine.ask(ids[:490]).tokens
    assert engine.loop.counters.prefill_tokens - before < 150


def cancel_by_handle(engine: Engine, client: Collector, sequence: object) -> None:
    engine.loop.cancel(sequence)  # type: ignore[arg-type]


def leave(engine: Engine, client: Collector, sequence: object) -> None:
    client.gone = True


@pytest.mark.parametrize("how", [cancel_by_handle, leave])
@pytest.mark.parametrize("phase", ["queued", "prefill", "decode"])
def test_a_cancel_frees_the_sequence_within_one_step(engine: Engine, how: object, phase: str) -> None:
    """Whatever it was doing, at most the step that is running is computed after the cancel."""
    if phase == "queued":
        busy, _ = engine.start(engine.prompt(600), max_new_tokens=1)
    client, sequence = engine.start(
        engine.prompt(600, offset=8000) if phase == "prefill" else [1, 2, 3], max_new_tokens=400, streaming=True
    )
    if phase == "prefill":
        engine.wait_for_steps(2)
    if phase == "decode":
        assert client.first.wait(30)
    how(engine, client, sequence)  # type: ignore[operator]
    assert client.ended.wait(30)
    assert client.error.startswith("CANCELLED")
    if phase == "queued":
        assert busy.ended.wait(60)
    counters = engine.loop.counters
    # One step: a chunk in prefill, a token in decoding; the step that saw the client leave may have been the next one.
    assert counters.tokens_after_cancel <= {"queued": 3, "prefill": MAX_CHUNK, "decode": 1}[phase] * (2 if how is leave else 1)
    assert not engine.loop._scheduler.sequences


def test_a_deadline_ends_a_sequence(engine: Engine) -> None:
    """When `deadline_ms` passes the request fails by name and is gone from the engine."""
    client = engine.ask([1, 2, 3], max_new_tokens=2000, deadline_ms=150)
    assert client.error.startswith("DEADLINE_EXCEEDED")
    assert not engine.loop._scheduler.sequences


def test_a_past_deadline_is_refused_before_any_work(engine: Engine) -> None:
    """No step is computed for a request that comes too late."""
    with pytest.raises(ContractError, match="deadline_ms"):
        engine.start([1, 2, 3], deadline_ms=0)
    assert engine.loop.counters.steps == 0


def test_the_earliest_deadline_is_answered_first(engine: Engine) -> None:
    """Of cold prompts queued together, the most urgent is answered first although it came last."""
    order: list[str] = []
    lock = threading.Lock()
    clients: list[threading.Thread] = []
    for name, deadline in (("late", 60_000), ("later", 90_000), ("soon", 30_000)):
        client, _ = engine.start(engine.prompt(300, offset=3000 * len(clients)), max_new_tokens=1, deadline_ms=deadline)

        def watch(client: Collector = client, name: str = name) -> None:
            client.ended.wait(60)
            with lock:
                order.append(name)

        clients.append(threading.Thread(target=watch))
        clients[-1].start()
    for thread in clients:
        thread.join()
    assert order == ["soon", "late", "later"]


def test_log_probs_and_bias(engine: Engine) -> None:
    """A bias decides the token, and its log-probability is the biased one's."""
    bias = np.full(engine.loop._scheduler.limits.vocab_size, -1e9, dtype=np.float32)
    bias[[17, 23]] = 0
    client = engine.ask(engine.prompt(20), embedding_bias=bias, max_new_tokens=3, return_log_probs=True)
    assert set(client.tokens) <= {17, 23}
    assert all(-20 < value <= 0 for value in client.log_probs)
    assert len(client.log_probs) == 3


def test_streaming_sends_only_new_tokens(engine: Engine) -> None:
    """One response for each step, together what the whole answer is."""
    ids = engine.prompt(30)
    whole = engine.ask(ids)
    streamed = engine.ask(ids, streaming=True)
    assert streamed.tokens == whole.tokens
    assert (streamed.deltas, whole.deltas) == ([1] * 8, [8])


def test_end_and_stop_words_end_a_sequence(engine: Engine) -> None:
    """The end token is not part of the output, a stop word is."""
    ids = engine.prompt(50)
    free = engine.ask(ids, max_new_tokens=10).tokens
    last = next(i for i in range(2, 10) if free[i] not in free[:i])
    assert engine.ask(ids, max_new_tokens=10, end_id=free[last]).tokens == free[:last]
    assert engine.ask(ids, max_new_tokens=10, stop_words=((free[last - 1], free[last]),)).tokens == free[: last + 1]


def test_sampling_repeats_with_its_seed(engine: Engine) -> None:
    """The same seed draws the same tokens, another seed others."""
    ids = engine.prompt(40)
    draws = [engine.ask(ids, top_k=0, top_p=0.95, temperature=1.5, seed=seed, max_new_tokens=12).tokens for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_thousands_of_cancels_leave_nothing_behind(engine: Engine) -> None:
    """Requests cancelled at every moment free all blocks; the fixture checks the pool at the end."""
    for turn in range(300):
        clients = [engine.start(engine.prompt(20 + turn % 50, offset=turn), max_new_tokens=20) for _ in range(4)]
        if turn % 3 == 0:
            time.sleep(0.002)
        for _, sequence in clients:
            engine.loop.cancel(sequence)
    until = time.monotonic() + 60
    while engine.loop._clients:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert engine.loop.counters.tokens_after_cancel <= 300 * 4


def test_a_crash_tells_every_client(smol_folder: Path) -> None:
    """When a step raises, requests in flight fail as unavailable and the crash is reported."""

    class Broken:
        def start(self, step: Step) -> None:
            raise MemoryError

        def finish(self) -> None:
            raise AssertionError

    crashed = threading.Event()
    loop = EngineLoop(Broken(), Limits(100), 8, crashed.set)  # type: ignore[arg-type]
    client = Collector()
    loop.submit(EngineRequest(input_ids=(1, 2)), client)
    assert crashed.wait(5)
    assert client.error.startswith("UNAVAILABLE")
    loop.close()


def test_the_kv_memory_is_what_the_catalogue_says(runner: Runner) -> None:
    """30 layers of 3 heads of 64 values, keys and values, in 16 bits, 32 tokens to a block."""
    assert runner.bytes_per_block == 30 * 3 * 64 * 2 * 2 * 32
