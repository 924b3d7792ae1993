"""The batcher's policy, step by step, without a model: the "model" here answers each token with its successor."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.engine.contract import ContractError, EngineRequest, WorkClass
from keyahead.engine.cpu.blocks import BlockPool
from keyahead.engine.cpu.scheduler import Limits, Scheduler, Step
from keyahead.engine.cpu.sequence import Finish, Sequence

VOCAB = 1000
STEP_MS = 40.0
Results = list[tuple[Sequence, list[int]]]


def make(num_blocks: int = 64, **limits: int) -> Scheduler:
    """A scheduler with a small chunk."""
    return Scheduler(Limits(VOCAB, **{"chunk": 16, "patience": 4, "yielding": 8, **limits}), BlockPool(num_blocks), lambda: 1)


def add(
    scheduler: Scheduler, length: int, first: int = 1, deadline: float = 1.0, drafts: tuple[int, ...] = (), **request: object
) -> Sequence:
    """A request for `length` ascending tokens, so that the next is known."""
    tokens = tuple((first + i) % VOCAB for i in range(length))
    made = EngineRequest(input_ids=tokens, draft_ids=drafts, **{"max_new_tokens": 4, **request})  # type: ignore[arg-type]
    scheduler.check(made)
    sequence = Sequence(made, deadline=deadline)
    scheduler.add(sequence)
    return sequence


def run(scheduler: Scheduler) -> tuple[Step, Results]:
    """One step."""
    step = scheduler.schedule()
    sampled: list[list[tuple[int, float | None]]] = []
    for piece in step.slices:
        assert len(piece.sequence.blocks) * 32 >= piece.start + len(piece.tokens)
        if piece.samples:
            places = piece.tokens[-1 - piece.num_drafts :]
            sampled.append([((token + 1) % VOCAB, None) for token in places])
    return step, scheduler.commit(step, sampled)


def finish(scheduler: Scheduler, most: int = 500) -> list[Step]:
    """Steps until nothing is left."""
    steps: list[Step] = []
    while scheduler.sequences:
        assert len(steps) < most
        steps.append(run(scheduler)[0])
    scheduler.pool.check_integrity()
    assert scheduler.pool.num_available == scheduler.pool.num_blocks
    return steps


def test_a_request_decodes_to_its_length() -> None:
    """A short prompt takes one step for its first token and one for each further."""
    scheduler = make()
    sequence = add(scheduler, 5)
    assert len(finish(scheduler)) == 4
    assert sequence.generated == [6, 7, 8, 9]
    assert sequence.finish is Finish.LENGTH


def test_a_cancel_that_comes_during_the_last_step_is_counted_like_any_other() -> None:
    """Its tokens are, and so must it be, or the mean of tokens after a cancel would exceed a step."""
    scheduler = make()
    first, last = add(scheduler, 9, max_new_tokens=1), add(scheduler, 5)
    step = scheduler.schedule()
    first.cancelled = last.cancelled = True
    scheduler.commit(step, [[(7, None)] for _ in step.slices])
    assert first.finish is Finish.LENGTH
    assert scheduler.reap(0.0) == [last]
    assert sum(scheduler.counters.cancelled_in.values()) == 2
    assert scheduler.counters.tokens_after_cancel == 9 + 5


def test_a_long_prompt_is_prefilled_in_chunks() -> None:
    """No step computes more than a chunk of a cold prompt."""
    scheduler = make()
    add(scheduler, 100, max_new_tokens=1)
    assert [sum(len(piece.tokens) for piece in step.slices) for step in finish(scheduler)] == [16] * 6 + [4]


@pytest.mark.parametrize("wrong", range(6))
def test_drafts_are_verified_in_one_step(wrong: int) -> None:
    """Right drafts before the first wrong one are accepted, and the model's own token comes on top."""
    scheduler = make()
    drafts = [6, 7, 8, 9, 10]
    if wrong < 5:
        drafts[wrong] = 999
    sequence = add(scheduler, 5, drafts=tuple(drafts), max_new_tokens=6)
    assert len(finish(scheduler)) == 1
    assert sequence.generated == [6, 7, 8, 9, 10, 11][: wrong + 1]
    assert sequence.num_accepted == wrong


def test_rejected_drafts_leave_no_trace_in_the_cache() -> None:
    """KV computed for a rejected draft is never found again."""
    scheduler = make()
    add(scheduler, 5, drafts=(6, 999, 8), max_new_tokens=4)
    finish(scheduler)
    match = scheduler.pool.match("", [1, 2, 3, 4, 5, 6, 999, 8])
    assert match.num_tokens == 6


def test_an_accepted_end_token_ends_the_sequence() -> None:
    """The end token inside accepted drafts is not part of the output."""
    scheduler = make()
    sequence = add(scheduler, 5, drafts=(6, 7, 8), max_new_tokens=4, end_id=7)
    finish(scheduler)
    assert sequence.generated == [6]
    assert sequence.finish is Finish.END


def test_warm_work_goes_before_a_cold_prefill_but_does_not_starve_it() -> None:
    """While short work is there a long prefill gets a chunk only when it has waited `patience` steps."""
    scheduler = make()
    add(scheduler, 400, first=500, deadline=0.1)
    add(scheduler, 3, deadline=9, max_new_tokens=12)
    chunks = [max(len(piece.tokens) for piece in run(scheduler)[0].slices) == 16 for _ in range(12)]
    assert chunks.count(True) == 2
    assert not any(chunks[:4])


def test_the_chunk_follows_the_time_it_takes() -> None:
    """A step that is too slow halves the next chunk, a quick one doubles it, within bounds; other steps change nothing."""
    scheduler = make()
    add(scheduler, 600, max_new_tokens=1)
    sizes = []
    for milliseconds in (900.0, 900.0, 900.0, 10.0, 10.0, 10.0, 10.0, 100.0):
        step, _ = run(scheduler)
        scheduler.adapt(step, milliseconds)
        sizes.append(scheduler.chunk)
    assert sizes == [8, 8, 8, 16, 32, 64, 64, 64]
    short = make()
    add(short, 3)
    step, _ = run(short)
    short.adapt(step, 900.0)
    assert short.chunk == 16


def test_the_earliest_deadline_is_prefilled_first() -> None:
    """Of two cold prompts the more urgent one is computed, whichever came first."""
    scheduler = make()
    late = add(scheduler, 64, first=100, deadline=5)
    soon = add(scheduler, 64, first=300, deadline=2)
    step, _ = run(scheduler)
    assert [piece.sequence for piece in step.slices] == [soon]
    assert late.num_computed == 0


def test_a_second_request_waits_for_blocks_another_is_computing() -> None:
    """Two requests with the same beginning prefill it once."""
    scheduler = make()
    add(scheduler, 200, deadline=1, max_new_tokens=1)
    add(scheduler, 200, deadline=2, max_new_tokens=1)
    finish(scheduler)
    assert scheduler.counters.prefill_tokens < 200 + 32


def test_a_cancelled_prefill_keeps_what_it_has_finished() -> None:
    """A typist who cancels every request still gets further with each."""
    scheduler = make()
    for _ in range(10):
        sequence = add(scheduler, 100, max_new_tokens=1)
        run(scheduler)
        if sequence.finish is not None:
            break
        sequence.cancelled = True
        assert scheduler.reap(0) == [sequence]
    assert scheduler.counters.prefill_tokens == 100


def test_what_is_past_its_deadline_is_dropped() -> None:
    """Reaping ends a sequence whose deadline has come and frees its memory."""
    scheduler = make()
    sequence = add(scheduler, 40, deadline=1.0)
    run(scheduler)
    assert scheduler.reap(2.0) == [sequence]
    assert sequence.finish is Finish.DEADLINE
    assert scheduler.pool.num_available == 64


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (EngineRequest(), "input_ids"),
        (EngineRequest(input_ids=(1,), max_new_tokens=0), "request_output_len"),
        (EngineRequest(input_ids=(VOCAB,)), "input_ids"),
        (EngineRequest(input_ids=(-1,)), "input_ids"),
        (EngineRequest(input_ids=(1,), draft_ids=(VOCAB,)), "draft_input_ids"),
        (EngineRequest(input_ids=(1,), draft_ids=(1,) * 25), "draft_input_ids"),
        (EngineRequest(input_ids=(1,) * 5000), "input_ids"),
    ],
)
def test_what_can_never_be_served_is_refused_by_name(request_: EngineRequest, name: str) -> None:
    """A request that breaks a limit is refused with the name of the tensor."""
    with pytest.raises(ContractError, match=rf"^{name}: "):
        make().check(request_)


def test_a_full_queue_refuses() -> None:
    """The number of requests held is bounded."""
    scheduler = make(max_queued=2)
    add(scheduler, 1)
    add(scheduler, 1)
    with pytest.raises(ContractError, match="full"):
        add(scheduler, 1)


jobs = st.lists(
    st.tuples(st.integers(1, 120), st.sampled_from([0, 0, 3, 500]), st.integers(1, 12), st.integers(0, 5), st.booleans()),
    min_size=1,
    max_size=8,
)


def use_up(scheduler: Scheduler, namespace: str = "flood") -> None:
    """Let a tenant have the engine until it is beyond its share, beside one that asks for nothing after its first request."""
    other = add(scheduler, 1, namespace="typist", max_new_tokens=1)
    sequence = add(scheduler, 1, namespace=namespace, max_new_tokens=100)
    while other.finish is None or sequence.finish is None:
        step, _ = run(scheduler)
        scheduler.adapt(step, STEP_MS)


def spaces(step: Step) -> set[str]:
    return {piece.sequence.request.namespace for piece in step.slices}


def test_a_flood_waits_for_a_typist_and_its_steps_are_short() -> None:
    """Beyond its share a tenant has no prefill in others' steps, and small ones of its own."""
    scheduler = make()
    use_up(scheduler)
    for index in range(5):
        add(scheduler, 100, first=10 + 100 * index, deadline=0.1, namespace="flood")
    step, _ = run(scheduler)
    assert sum(len(piece.tokens) for piece in step.slices) == 8
    typist = add(scheduler, 40, deadline=9.0, namespace="typist")
    steps = [run(scheduler)[0] for _ in range(7)]
    assert typist.finish is Finish.LENGTH
    assert all(spaces(step) == {"typist"} for step in steps)
    assert spaces(run(scheduler)[0]) == {"flood"}


def test_a_decode_beyond_its_share_is_a_guest() -> None:
    """A few single tokens go along with the steps of others, more do not."""
    scheduler = make()
    use_up(scheduler)
    flood = [add(scheduler, 3, first=10 * index, namespace="flood", max_new_tokens=30) for index in range(6)]
    while not all(sequence.generated for sequence in flood):
        run(scheduler)
    add(scheduler, 3, deadline=9.0, namespace="typist")
    step, _ = run(scheduler)
    assert [len(piece.tokens) for piece in step.slices] == [2, 1, 1, 1, 1]
    assert step.slices[0].sequence.request.namespace == "typist"


def test_background_work_is_alone_and_short() -> None:
    """It is in no step with other work, whatever its deadline, and is not charged to its tenant."""
    scheduler = make()
    behind = add(scheduler, 200, first=500, deadline=0.0, work_class=WorkClass.BACKGROUND)
    step, _ = run(scheduler)
    assert [len(piece.tokens) for piece in step.slices] == [8]
    front = add(scheduler, 40, deadline=9.0)
    while front.finish is None:
        step, _ = run(scheduler)
        assert {piece.sequence for piece in step.slices} == {front}
    finish(scheduler)
    assert behind.finish is Finish.LENGTH
    assert scheduler.counters.class_tokens["background"] == 203


def test_warming_is_within_the_share_but_behind_what_was_asked_for() -> None:
    """It goes before a flood of another tenant, after its own tenant's requests, and in small chunks."""
    scheduler = make()
    use_up(scheduler)
    add(scheduler, 100, first=300, deadline=0.0, namespace="flood")
    warming = add(scheduler, 60, first=500, deadline=0.0, namespace="typist", work_class=WorkClass.WARMING)
    step, _ = run(scheduler)
    assert [(piece.sequence, len(piece.tokens)) for piece in step.slices] == [(warming, 8)]
    asked = add(scheduler, 40, first=700, deadline=9.0, namespace="typist")
    assert [piece.sequence for piece in run(scheduler)[0].slices] == [asked]


def test_what_was_asked_for_by_hand_goes_first() -> None:
    """Of two cold prompts of one tenant the one asked for by hand is computed, although it is due later."""
    scheduler = make()
    add(scheduler, 64, first=100, deadline=1)
    by_hand = add(scheduler, 64, first=300, deadline=9, work_class=WorkClass.MANUAL)
    assert [piece.sequence for piece in run(scheduler)[0].slices] == [by_hand]


def test_memory_is_taken_from_the_flood() -> None:
    """When blocks run out, a tenant beyond its share gives them to one within, whatever the deadlines."""
    scheduler = make(num_blocks=4)
    use_up(scheduler)
    flood = add(scheduler, 100, deadline=0.1, first=500, namespace="flood")
    while flood.num_computed < 90:
        run(scheduler)
    typist = add(scheduler, 60, deadline=9.0, namespace="typist")
    while typist.finish is None:
        run(scheduler)
    assert scheduler.counters.preempted == 1
    finish(scheduler)
    assert flood.finish is Finish.LENGTH


@settings(max_examples=60, deadline=None)
@given(jobs, st.integers(5, 12))
def test_every_request_gets_its_own_answer_under_memory_pressure(plan: list[tuple[int, int, int, int, bool]], num_blocks: int) -> None:
    """Whatever shares blocks, is preempted, cancelled or verified: output is the model's own, and no block is lost."""
    scheduler = make(num_blocks=num_blocks)
    sequences = []
    for length, first, output, num_drafts, _ in plan:
        drafts = tuple((first + length + i) % VOCAB for i in range(num_drafts))
        who = {"namespace": "ab"[length % 2], "work_class": list(WorkClass)[output % 4]}
        sequences.append(add(scheduler, length, first, deadline=length % 7, drafts=drafts, max_new_tokens=output, **who))
    for turn in range(2000):
        if not scheduler.sequences:
            break
        step, _ = run(scheduler)
        scheduler.adapt(step, STEP_MS)
        for sequence, (*_, cancelled) in zip(sequences, plan, strict=True):
            sequence.cancelled = sequence.cancelled or (cancelled and turn == sequence.num_prompt % 5)
        scheduler.reap(-1)
    assert not scheduler.sequences
    scheduler.pool.check_integrity()
    assert scheduler.pool.num_available == num_blocks
    for sequence in sequences:
        last = sequence.request.input_ids[-1]
        assert sequence.generated == [(last + 1 + i) % VOCAB for i in range(len(sequence.generated))]
        if sequence.finish is Finish.LENGTH:
            assert len(sequence.generated) == sequence.request.max_new_tokens
