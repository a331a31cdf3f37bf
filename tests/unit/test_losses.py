"""The guard against many instances that vanish at once: its rules, and a model of them."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc import EndpointInstance, ManualClock, RemovalReason, Transport, endpoints
from natsdisc.changes import Change
from natsdisc.keys import key_of
from natsdisc.losses import Losses
from natsdisc.notices import Notices
from natsdisc.picture import SortKey
from natsdisc.stats import Counters

EXPIRED, MISSING = RemovalReason.EXPIRED, RemovalReason.MISSING
UNREGISTERED, UNMATCHED = RemovalReason.UNREGISTERED, RemovalReason.UNMATCHED
WINDOW, KEPT = 30.0, 120.0


def endpoint(number: int) -> EndpointInstance:
    return EndpointInstance("a", "b", "c", number, transport=Transport.nats("addr"))


class Fleet:
    """Instances that come and go, and the losses of a view of them."""

    def __init__(self, size: int, threshold: float = 0.5) -> None:
        self.clock = ManualClock()
        self.stats = Counters()
        notices = Notices("losses", self.clock.time, repeats=True)
        self.losses = Losses(threshold, endpoints(), clock=self.clock, notices=notices, stats=self.stats)
        self.there: set[int] = set()
        self.forgotten: list[SortKey] = []
        self.come(*range(size))

    def come(self, *numbers: int) -> None:
        self.there |= set(numbers)
        self._change(*(Change(_key(number), None, endpoint(number)) for number in numbers))

    def go(self, *numbers: int, reason: RemovalReason = EXPIRED) -> None:
        self.there -= set(numbers)
        self._change(*(Change(_key(number), endpoint(number), None, reason) for number in numbers))

    def _change(self, *changes: Change) -> None:
        self.losses.changed(changes, len(self.there))

    async def wait(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        self.losses.update(len(self.there), self.forgotten.append)

    @property
    def lost(self) -> set[int]:
        return {instance.instance_id for instance in self.losses.instances}


def _key(number: int) -> str:
    return key_of(endpoint(number).id)


@pytest.mark.parametrize(
    ("size", "gone", "panics"),
    [(1, 1, False), (2, 2, False), (3, 1, False), (3, 2, True), (4, 2, False), (4, 3, True), (10, 10, True)],
)
@pytest.mark.parametrize("reason", [EXPIRED, MISSING])
def test_more_than_half_of_at_least_three(size: int, gone: int, panics: bool, reason: RemovalReason) -> None:
    fleet = Fleet(size)
    fleet.go(*range(gone), reason=reason)
    assert fleet.losses.panicking is panics
    assert fleet.stats.panics == panics


@pytest.mark.parametrize("reason", [UNREGISTERED, UNMATCHED])
def test_leaving_is_no_loss(reason: RemovalReason) -> None:
    fleet = Fleet(10)
    fleet.go(*range(10), reason=reason)
    assert not fleet.losses
    assert not fleet.losses.panicking


@pytest.mark.parametrize(
    ("threshold", "gone", "panics"), [(0.0, 10, False), (0.2, 2, False), (0.2, 3, True), (1.0, 10, False)]
)
def test_the_threshold(threshold: float, gone: int, panics: bool) -> None:
    fleet = Fleet(10, threshold)
    fleet.go(*range(gone))
    assert fleet.losses.panicking is panics
    assert bool(fleet.losses) is (threshold > 0)


async def test_one_after_the_other_is_no_panic() -> None:
    fleet = Fleet(10)
    for number in range(10):
        fleet.go(number)
        assert not fleet.losses.panicking
        await fleet.wait(WINDOW / 2)
        fleet.come(number + 100)


async def test_those_that_come_back_are_forgotten_and_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "natsdisc")
    fleet = Fleet(10)
    fleet.go(*range(10))
    assert fleet.lost == set(range(10))
    for number in range(5):
        assert fleet.losses.panicking
        fleet.come(number)
        assert number not in fleet.lost
    assert not fleet.losses.panicking
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "lost 10 of 10 instances" in caplog.records[0].getMessage()
    fleet.come(*range(5, 10))
    assert not fleet.losses


def test_those_that_are_unregistered_are_forgotten() -> None:
    fleet = Fleet(4)
    fleet.go(*range(4))
    for number in range(4):
        assert fleet.losses.panicking is (number < 2)  # two of two are fewer than three
        fleet.losses.left(_key(number), 0)
    assert not fleet.losses
    fleet.losses.left("unknown", 0)


async def test_it_has_a_bound_in_time() -> None:
    fleet = Fleet(10)
    fleet.go(*range(10))
    await fleet.wait(KEPT - 1)
    assert fleet.losses.panicking
    assert fleet.lost == set(range(10))
    assert fleet.forgotten == []
    await fleet.wait(1)
    assert not fleet.losses.panicking
    assert not fleet.losses
    assert len(fleet.forgotten) == 10


async def test_others_that_take_their_place_end_it() -> None:
    fleet = Fleet(10)
    fleet.go(*range(10))
    fleet.come(*range(100, 109))
    assert fleet.losses.panicking
    fleet.come(110)
    assert not fleet.losses.panicking


numbers = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("come"), numbers),
    st.tuples(st.sampled_from(["expired", "missing", "unregistered", "unmatched"]), numbers),
    st.tuples(st.just("left"), numbers),
    st.tuples(st.just("wait"), st.sampled_from([1, 10, 29, 31, 119])),
)


@given(taken=st.lists(steps, max_size=30), threshold=st.sampled_from([0.2, 0.5, 0.9]))
async def test_any_changes(taken: list[tuple[str, int]], threshold: float) -> None:
    fleet, model, panicking = Fleet(6, threshold), dict[int, float](), False
    for step, number in taken:
        if step == "wait":
            await fleet.wait(number)
            kept = KEPT if panicking else WINDOW
            model = {one: at for one, at in model.items() if at + kept > fleet.clock.time()}
        elif step == "come":
            fleet.come(number)
            model.pop(number, None)
        elif step == "left":
            if number not in fleet.there:
                fleet.losses.left(_key(number), len(fleet.there))
                model.pop(number, None)
        elif number in fleet.there:
            fleet.go(number, reason=RemovalReason(step))
            if step in ("expired", "missing"):
                model[number] = fleet.clock.time()
        kept = KEPT if panicking else WINDOW
        counted = [at for at in model.values() if at + kept > fleet.clock.time()]
        known = len(fleet.there) + len(counted)
        panicking = known >= 3 and len(counted) > threshold * known
        assert fleet.losses.panicking is panicking
        assert fleet.lost == model.keys()
        assert fleet.lost.isdisjoint(fleet.there)
