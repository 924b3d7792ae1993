"""People typing against the whole service: hit share, tokens a step, what the deadline cut, and latency by the number of typists.

Starts a stack of its own for each number of typists. The people and the judging are the load test's; here are the figures of what lies
below the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from common import SEED, Figure, arguments, report_figures
from running import Stack, counters, running_stack

from keyahead.loadtest import texts
from keyahead.loadtest.figures import summarize
from keyahead.loadtest.judge import Answer, Ask
from keyahead.loadtest.plan import make_plan
from keyahead.loadtest.replay import replay
from keyahead.loadtest.rpc import TIMEOUT_S, answer, no_answer, request
from keyahead.loadtest.typist import Typist
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

TYPISTS = (1, 2, 4)
"""Each number types for `--limit` seconds divided by it, so that all ask about as much."""
WARM_S = 5.0
"""A stack's first seconds are not measured."""
NEW_PLACE_S = 3.0
"""So long after a jump a place counts as new: the longest prompt without other files is read in two seconds, and keys come between."""


class Watched:
    """The service as the typists' system, with a look at each response."""

    def __init__(self, channel: grpc.aio.Channel, typists: Sequence[Typist]) -> None:
        self._stub = pb_grpc.AutocompleteStub(channel)
        self._jumps = {typist.plan.typist: [key.at_s for key in typist.plan.keys if not key.asks] for typist in typists}
        self.reasons: Counter[str] = Counter()
        self.asked_at_new_place = self.cut_at_new_place = 0

    async def __call__(self, typist: int, ask: Ask) -> Answer:
        """Ask the service. Raises Superseded and Failed."""
        new_place = not ask.follow_up and any(0 <= ask.at_s - jump <= NEW_PLACE_S for jump in self._jumps[typist])
        self.asked_at_new_place += new_place
        try:
            response = await self._stub.Complete(request(ask, f"replay.{typist}"), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise no_answer(error.code()) from None
        if not ask.follow_up:
            self.reasons[pb.FinishReason.Name(response.finish_reason).removeprefix("FINISH_REASON_")] += 1
        self.cut_at_new_place += new_place and response.finish_reason == pb.FINISH_REASON_DEADLINE
        return answer(response)


async def type_for(stack: Stack, count: int, seconds: float) -> tuple[dict[str, Any], Watched]:
    """So many people type for so long."""
    sources = texts.from_folder()
    typists = [Typist(make_plan(sources, SEED, number, count, seconds)) for number in range(count)]
    async with grpc.aio.insecure_channel(stack.service.address) as channel:
        system = Watched(channel, typists)
        await replay(typists, system, seconds)
    records = [record for typist in typists for record in typist.records]
    return summarize(records, [key for typist in typists for key in typist.typed()], seconds), system


def measure(count: int, seconds: float) -> list[Figure]:
    """The figures for so many typists."""
    with running_stack() as stack:
        time.sleep(WARM_S)
        before = counters(stack.triton_metrics)
        summary, system = asyncio.run(type_for(stack, count, seconds))
        time.sleep(2)  # The engine's page is a second behind.
        after = counters(stack.triton_metrics)

    def grown(name: str) -> float:
        return sum(value - before.get(key, 0.0) for key, value in after.items() if key.startswith(name))

    asked, answered, latency = summary["asked"], sum(system.reasons.values()), summary["latency_ms"]
    cut = system.reasons["DEADLINE"]
    hits = sum(summary["sources"].get(source, 0) for source in ("memory", "redis"))
    steps = grown("keyahead_engine_output_steps_total")
    tokens = grown('keyahead_engine_tokens_total{kind="output"}')
    one = count == 1
    of = f"{asked} asked"
    return [
        Figure(
            f"hits_{count}", f"answered without the engine, {count} typists", hits / max(1, answered), "", of, at_least=0.5 if one else None
        ),
        Figure(f"cut_{count}", "cut by the deadline, of everything asked", cut / asked, "", of, at_most=0.1 if one else None),
        Figure(
            f"cut_new_{count}",
            f"of them within {NEW_PLACE_S:.0f} s of a jump",
            system.cut_at_new_place / max(1, cut),
            "",
            f"{cut} cut; {system.asked_at_new_place} asked there",
        ),
        Figure(f"p50_{count}", "p50 from the key", latency["p50"], "ms", f"{summary['eligible']} eligible", at_most=100 if one else None),
        Figure(f"p99_{count}", "p99 from the key", latency["p99"], "ms", f"{summary['slow']} over 200 ms", at_most=200),
        Figure(f"useful_{count}", "useful characters, of those typed", summary["useful_share"], "", ""),
        Figure(f"steps_{count}", "tokens for each step that gives any", tokens / max(1.0, steps), "", f"{steps:.0f} steps"),
    ]


def main() -> None:
    options = arguments(__doc__, limit=240)
    figures = [figure for count in TYPISTS for figure in measure(count, options.limit / count)]
    report_figures(Path(__file__).stem, figures, as_json=options.json)


if __name__ == "__main__":
    main()
