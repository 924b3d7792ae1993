"""Places at the engine: who gets one, who waits, who is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keyahead.engine.contract import WorkClass
from keyahead.service.admission import MAX_WAITING, Act, Admission, Effect, Ticket
from keyahead.service.model import Overloaded


@dataclass(eq=False)
class FakeWork:
    """Something at the engine."""

    wanted: bool = True
    first_token_at: float | None = None

    def stop(self) -> None:
        self.wanted = False


def ticket(
    tenant: str = "a", due: float = 1.0, cold_s: float = 0.0, work_class: WorkClass = WorkClass.AUTOMATIC, weight: int = 1
) -> Ticket:
    return Ticket(tenant, work_class, due, cold_s, FakeWork(wanted=work_class is not WorkClass.BACKGROUND), weight)


def started(effects: list[Effect]) -> list[Ticket]:
    return [each for act, each in effects if act is Act.START]


def test_the_order_is_tenant_then_hand_then_deadline() -> None:
    """A tenant with less at the engine goes first; within one, what was asked for by hand, then what is due first."""
    admission = Admission(4)
    first = [ticket("a"), ticket("a"), ticket("b")]
    for each in first:
        assert started(admission.offer(each, 0.0)) == [each]
    late, soon, by_hand, other = ticket("a", 9.0), ticket("a", 2.0), ticket("a", 9.0, work_class=WorkClass.MANUAL), ticket("b", 9.0)
    for each in (late, soon, by_hand):
        assert not started(admission.offer(each, 0.0))
    assert started(admission.offer(other, 0.0)) == [other]
    assert started(admission.leave(first[0], 0.1)) == [by_hand]
    assert started(admission.leave(by_hand, 0.2)) == [soon]
    assert started(admission.leave(first[1], 0.3)) == [late]


def test_a_tenant_alone_leaves_places_free() -> None:
    """However much it asks for, another that comes finds one."""
    admission = Admission(16)
    mine = [ticket() for _ in range(20)]
    for each in mine:
        admission.offer(each, 0.0)
    assert len(admission.running) == 12
    other = ticket("b")
    assert started(admission.offer(other, 0.0)) == [other]


def test_weights_divide_the_places() -> None:
    """Beside a tenant of weight 3, one of weight 1 has a quarter of the places."""
    admission = Admission(16)
    for _ in range(14):
        admission.offer(ticket("big", weight=3), 0.0)
        admission.offer(ticket("small"), 0.0)
    held = [each.tenant for each in admission.running]
    assert (held.count("big"), held.count("small")) == (12, 4)


def test_what_cannot_be_on_time_is_refused_with_a_hint() -> None:
    """Prompts of the same tenant that are still to be read stand before it; another tenant's do not."""
    admission = Admission(16)
    for _ in range(2):
        admission.offer(ticket(due=0.16, cold_s=0.08), 0.0)
    with pytest.raises(Overloaded, match="a wait of 160 ms is expected, and there are 150 ms") as refusal:
        admission.offer(ticket(due=0.16, cold_s=0.08), 0.01)
    assert refusal.value.retry_after_s == pytest.approx(0.16)
    admission.offer(ticket("b", due=0.16, cold_s=0.08), 0.01)
    admission.offer(ticket(due=0.16, cold_s=0.01), 0.01)  # Little to read goes before much.


def test_a_prompt_that_has_been_read_is_not_waited_for() -> None:
    """After its first token a generation stands before nobody, and nor does one that nobody wants."""
    admission = Admission(16)
    read, unwanted = ticket(cold_s=1.0), ticket(cold_s=1.0)
    assert isinstance(read.work, FakeWork)
    admission.offer(read, 0.0)
    admission.offer(unwanted, 0.0)
    asked = ticket(cold_s=1.0)
    assert admission.predicted_wait(asked) == 2.0
    read.work.first_token_at = 0.5
    unwanted.work.stop()
    assert admission.predicted_wait(asked) == 0.0


def test_the_queue_of_a_tenant_is_bounded() -> None:
    """Beyond it requests are refused, of this tenant only."""
    admission = Admission(4)
    for _ in range(3 + MAX_WAITING):
        admission.offer(ticket(), 0.0)
    with pytest.raises(Overloaded, match="wait already"):
        admission.offer(ticket(), 0.0)
    admission.offer(ticket("b"), 0.0)
    admission.check_integrity()


def test_what_nobody_wants_makes_room() -> None:
    """A generation that goes on for the cache's sake ends when its tenant needs the place; one that waits is dropped."""
    admission = Admission(4)
    running, waiting = [ticket() for _ in range(3)], ticket()
    for each in (*running, waiting):
        admission.offer(each, 0.0)
    running[1].work.stop()
    waiting.work.stop()
    asked = ticket()
    assert admission.offer(asked, 0.0) == [(Act.DROP, waiting), (Act.EVICT, running[1])]
    assert started(admission.leave(running[1], 0.1)) == [asked]


def test_another_tenant_s_lingering_work_is_left_alone_where_there_is_room() -> None:
    """A tenant that has all it may have does not end what others have."""
    admission = Admission(8)
    other = ticket("b")
    admission.offer(other, 0.0)
    other.work.stop()
    for _ in range(5):
        effects = admission.offer(ticket(), 0.0)
    assert not effects


def test_background_work_takes_only_free_places() -> None:
    """It is refused where somebody waits, and ends when somebody comes."""
    admission = Admission(4)
    behind = ticket(work_class=WorkClass.BACKGROUND)
    assert started(admission.offer(behind, 0.0)) == [behind]
    for index in range(3):
        admission.offer(ticket(f"t{index}"), 0.0)
    with pytest.raises(Overloaded, match="ahead of need"):
        admission.offer(ticket(work_class=WorkClass.BACKGROUND), 0.0)
    assert (Act.EVICT, behind) in admission.offer(ticket("b"), 0.0)


class Places(RuleBasedStateMachine):
    """Whatever comes and goes: bounds hold, nobody is lost, and everybody who waits is served in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(6)
        self.known: list[Ticket] = []
        self.running: list[Ticket] = []
        self.now = 0.0

    def apply(self, effects: list[Effect]) -> None:
        for act, each in effects:
            if act is Act.START:
                assert each not in self.running
                self.running.append(each)
            elif act is Act.EVICT:
                assert not each.work.wanted
                assert each in self.running
            else:
                assert not each.work.wanted
                self.known.remove(each)

    @rule(tenant=st.sampled_from("abc"), work_class=st.sampled_from(list(WorkClass)), due=st.floats(0.01, 1), cold=st.floats(0, 0.3))
    def offer(self, tenant: str, work_class: WorkClass, due: float, cold: float) -> None:
        each = ticket(tenant, self.now + due, cold, work_class)
        self.now += 0.01
        try:
            effects = self.admission.offer(each, self.now)
        except Overloaded:
            return
        self.known.append(each)
        self.apply(effects)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        each = self.running[data.draw(st.integers(0, len(self.running) - 1))]
        self.running.remove(each)
        self.known.remove(each)
        self.now += 0.05
        self.apply(self.admission.leave(each, self.now))

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def lose_interest(self, data: st.DataObject) -> None:
        self.known[data.draw(st.integers(0, len(self.known) - 1))].work.stop()

    @invariant()
    def bounds_hold(self) -> None:
        self.admission.check_integrity()
        assert self.admission.running == tuple(self.running)

    def teardown(self) -> None:
        while self.running:
            each = self.running.pop()
            self.known.remove(each)
            self.apply(self.admission.leave(each, self.now))
        assert not self.known


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=60, deadline=None)
