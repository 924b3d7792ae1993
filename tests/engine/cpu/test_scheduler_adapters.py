"""The batcher's policy with adapters: a step has one, and nobody waits for ever because of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine.contract import ContractError, EngineRequest
from keyahead.engine.cpu.cold_starts import ColdStarts
from keyahead.engine.cpu.kv_seal import BlockId, Sealer
from keyahead.engine.cpu.lora import Loaded
from keyahead.engine.cpu.scheduler import Scheduler, Step
from keyahead.engine.cpu.sequence import Sequence
from tests.engine.cpu.test_scheduler import VOCAB, finish, make, run

ONE, TWO = Loaded("1", {}, 0), Loaded("2", {}, 0)
KINDS = (None, ONE, TWO)


def add(scheduler: Scheduler, length: int, adapter: Loaded | None, *, first: int = 1, deadline: float = 1.0, output: int = 4) -> Sequence:
    request = EngineRequest(input_ids=tuple((first + i) % VOCAB for i in range(length)), max_new_tokens=output)
    scheduler.check(request)
    sequence = Sequence(request, deadline=deadline, adapter=adapter)
    scheduler.add(sequence)
    return sequence


def kinds_of(step: Step) -> set[Loaded | None]:
    return {piece.sequence.adapter for piece in step.slices}


def test_a_step_is_that_of_the_earliest_deadline() -> None:
    """Sequences with its adapter come along, those with another one wait, whatever their number."""
    scheduler = make()
    urgent, alike = add(scheduler, 5, ONE, deadline=1), add(scheduler, 6, ONE, deadline=9)
    others = [add(scheduler, 5, kind, first=100, deadline=5) for kind in (None, TWO)]
    step, _ = run(scheduler)
    assert {piece.sequence for piece in step.slices} == {urgent, alike}
    assert not any(other.generated for other in others)


def test_a_long_prefill_with_another_adapter_does_not_starve_nor_delay() -> None:
    """Though its deadline is the earliest, it gets a chunk only when it has waited `patience` steps of short work, and then it does."""
    scheduler = make()
    add(scheduler, 400, ONE, first=500, deadline=0.1)
    add(scheduler, 3, None, deadline=9, output=12)
    kinds = [kinds_of(run(scheduler)[0]) for _ in range(10)]
    assert kinds == [{None}] * 4 + [{ONE}] + [{None}] * 4 + [{ONE}]


def test_equal_prompts_share_no_kv_across_adapters() -> None:
    """Equal tokens in one namespace, and all is computed anew; the same adapter again finds it."""
    scheduler = make()
    for kind in KINDS:
        for reused in (0, 64):
            sequence = add(scheduler, 70, kind, output=1)
            finish(scheduler)
            assert sequence.num_reused // 32 * 32 == reused


def test_redis_is_asked_for_the_adapters_own_blocks() -> None:
    """And given them under its own names: the same tokens in the same namespace, with each adapter other blocks."""
    asked: list[BlockId] = []

    class Store:
        def fetch(self, blocks: list[BlockId], budget_s: float, deliver: object) -> bool:
            asked.append(blocks[0])
            return True

    scheduler = make()
    cold = ColdStarts(scheduler.pool, None, Store(), lambda: None)  # type: ignore[arg-type]
    sequences = [add(scheduler, 200, kind) for kind in KINDS]
    for sequence in sequences:
        cold.admit(sequence, 0.0)
        sequence.held = False
    sealer = Sealer(b"k" * 32, b"")
    assert len({sealer.name(block) for block in asked}) == len({block.namespace for block in asked}) == len(KINDS)


def test_no_namespace_can_be_that_of_an_adapter() -> None:
    """A zero byte stands between a namespace and a digest, so none may come in a request."""
    with pytest.raises(ContractError, match="cache_namespace"):
        make().check(EngineRequest(input_ids=(1,), namespace="acme\0abc"))


works = st.lists(
    st.tuples(st.integers(1, 90), st.sampled_from(KINDS), st.integers(0, 3), st.integers(1, 6), st.floats(0.1, 9)), min_size=1, max_size=10
)


@given(works, st.integers(6, 64))
def test_whatever_comes_steps_are_of_one_kind_and_all_is_answered(
    plan: list[tuple[int, Loaded | None, int, int, float]], blocks: int
) -> None:
    """Under memory pressure, too; every sequence decodes the successors of its own last token."""
    scheduler = make(blocks)
    sequences = [add(scheduler, length, kind, first=100 * tenth, output=out, deadline=until) for length, kind, tenth, out, until in plan]
    assert all(len(kinds_of(step)) == 1 for step in finish(scheduler))
    for sequence in sequences:
        last = sequence.request.input_ids[-1]
        assert sequence.generated == [(last + 1 + i) % VOCAB for i in range(sequence.request.max_new_tokens)]
