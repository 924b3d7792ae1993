"""One engine as a queue."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.capacity.replica import AHEAD_CHUNK, MAX_WAITING, Job, Kind, Replica
from keyahead.capacity.workload import Engine
from tests.capacity.samples import engine


def replica(of: Engine) -> Replica:
    """A new one."""
    return Replica(of, random.Random(0))


def answer(to_read: int = 1, total: int = 1, at_s: float = 0.0) -> Job:
    """Work for an answer."""
    return Job(Kind.ANSWER, at_s, to_read, total)


def run(of: Replica, until: Job, now_s: float = 0.0) -> float:
    """Steps until some work is done; when."""
    while not until.done:
        ends_s = of.begin(now_s)
        assert ends_s is not None, "nothing to do, and not done"
        now_s = ends_s
        of.end(now_s)
    return now_s


def test_an_answer_takes_a_step_for_each_token() -> None:
    """The first comes with reading the prompt."""
    served, job = replica(engine()), answer(to_read=5, total=4)
    assert served.offer(job)
    assert run(served, job) == pytest.approx(0.04)


def test_what_else_runs_slows_every_step() -> None:
    """Twice as long with a slowdown of 2."""
    served, job = replica(engine(slowdown=2.0)), answer(total=4)
    served.offer(job)
    assert run(served, job) == pytest.approx(0.08)


def test_steps_in_vain_give_nothing() -> None:
    """Two of them put everything off by two steps."""
    served, job = replica(engine()), Job(Kind.ANSWER, 0.0, 1, 3, vain=2)
    served.offer(job)
    assert run(served, job) == pytest.approx(0.05)
    assert job.first_s == pytest.approx(0.03)


def test_accepted_drafts_save_steps() -> None:
    """With two tokens a step, four take two; with one and a half, on average so many."""
    served, job = replica(engine(given=2.0)), answer(total=4)
    served.offer(job)
    assert run(served, job) == pytest.approx(0.02)
    served, long = replica(engine(given=1.5)), answer(total=600)
    served.offer(long)
    assert run(served, long) == pytest.approx(4.0, rel=0.1)


def test_answers_share_steps() -> None:
    """Eight take no longer than one, where a step takes no longer for eight."""
    served, jobs = replica(engine()), [answer(total=5) for _ in range(8)]
    assert all(served.offer(job) for job in jobs)
    assert run(served, jobs[-1]) == pytest.approx(0.05)
    assert all(job.done for job in jobs)
    assert served.batch == 8


def test_who_has_no_place_waits() -> None:
    """A ninth answer begins when one of eight has ended."""
    served, jobs = replica(engine()), [answer(total=5) for _ in range(9)]
    assert all(served.offer(job) for job in jobs)
    assert run(served, jobs[-1]) == pytest.approx(0.10)
    assert jobs[-1].started_s == pytest.approx(0.05)


def test_who_would_wait_too_long_is_refused() -> None:
    """Either there are too many, or places are known to be held for long."""
    served = replica(engine(places=1))
    offered = [served.offer(answer()) for _ in range(MAX_WAITING + 2)]
    assert offered == [True] * (MAX_WAITING + 1) + [False]
    slow = replica(engine(step_s=1.0, places=1))
    jobs = [answer(total=3) for _ in range(3)]
    assert all(slow.offer(job) for job in jobs)
    now_s = run(slow, jobs[1])
    assert slow.offer(answer(at_s=now_s))
    assert not slow.offer(answer(at_s=now_s))


def test_prompts_that_cannot_be_read_in_time_are_refused() -> None:
    """Those still to be read stand before one that is no shorter; a short one goes first, and what nobody wants is not counted."""
    served = replica(engine(step_s=0.064))  # 1 ms a token
    first, second, short = (Job(Kind.ANSWER, 0.0, tokens, 1, cold=tokens) for tokens in (200, 300, 30))
    assert served.offer(first)
    assert not served.offer(second)
    assert served.offer(short)
    first.wanted = False
    assert served.offer(Job(Kind.ANSWER, 0.0, 300, 1, cold=300))


def test_unwanted_work_makes_room() -> None:
    """What nobody waits for leaves its place when somebody needs one, and not before."""
    served, jobs = replica(engine(places=2)), [answer(total=50), answer(total=50), answer()]
    served.offer(jobs[0])
    served.offer(jobs[1])
    jobs[0].wanted = False
    assert not jobs[0].gone
    served.offer(jobs[2])
    assert [job.gone for job in jobs] == [True, False, False]
    assert run(served, jobs[2]) == pytest.approx(0.01)


def test_a_long_prompt_waits_for_short_pieces_but_not_for_ever() -> None:
    """A chunk goes with every step in which the patience has run out, so that 128 tokens are read within two such."""
    served, short, long = replica(engine()), answer(total=1000), answer(to_read=129, total=1)
    served.offer(short)
    served.offer(long)
    assert run(served, long) == pytest.approx(0.01 * (5 + 5 + 1))


def test_reading_ahead_uses_free_steps() -> None:
    """The prompt behind a shortened one is read in its own chunks while nobody asks."""
    served, behind = replica(engine()), Job(Kind.READING, 0.0, 3 * AHEAD_CHUNK)
    served.offer(behind)
    assert run(served, behind) == pytest.approx(0.03)


def test_a_prefetch_ends_when_anybody_asks() -> None:
    """It is decoded only while nothing else is."""
    served, ahead, job = replica(engine()), Job(Kind.PREFETCH, 0.0, 1, 50), answer()
    served.offer(ahead)
    assert served.begin(0.0) == pytest.approx(0.01)
    served.offer(job)
    served.end(0.01)
    assert run(served, job, 0.01) == pytest.approx(0.02)
    assert served.begin(0.02) is None


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 30)), min_size=1, max_size=40), st.integers(1, 8))
def test_all_that_is_taken_ends(work: list[tuple[int, int]], places: int) -> None:
    """Whatever comes at once is refused, or done in the end; then the engine has nothing left, and was busy all the time."""
    served = replica(engine(places=places))
    taken = [job for to_read, total in work if served.offer(job := answer(to_read, total))]
    now_s = 0.0
    while (ends_s := served.begin(now_s)) is not None:
        now_s = ends_s
        served.end(now_s)
    assert all(job.done for job in taken)
    assert served.idle
    assert served.busy_s == pytest.approx(now_s)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_without_batching_it_is_an_m_d_1_queue(load: float) -> None:
    """With one place, steps of one length and answers of one token, arriving at random: the mean wait is that of Pollaczek and Khinchine,
    load * step / (2 * (1 - load)).
    """
    step_s, count = 0.001, 40_000
    rng, served = random.Random(5), replica(engine(step_s=step_s, places=1))
    moments = itertools.accumulate(rng.expovariate(load / step_s) for _ in range(count))
    jobs = [answer(at_s=at_s) for at_s in moments]
    events: list[tuple[float, int, Job | None]] = [(job.offered_s, number, job) for number, job in enumerate(jobs)]
    while events:
        now_s, number, job = heapq.heappop(events)
        if job is None:
            served.end(now_s)
        else:
            assert served.offer(job)
        if not served.busy and (ends_s := served.begin(now_s)) is not None:
            heapq.heappush(events, (ends_s, number, None))
    waits = [(job.started_s or 0.0) - job.offered_s for job in jobs]
    assert sum(waits) / count == pytest.approx(load * step_s / (2 * (1 - load)), rel=0.05)
    assert served.busy_s == pytest.approx(count * step_s)
