"""From what a reader reports to what changed: the rules, and that no way of telling matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from natsdisc import entry, wire
from natsdisc.errors import InvalidValueError
from natsdisc.fold import Backlog, Change, Fold, few
from natsdisc.keys import key_of
from natsdisc.model import (
    Added,
    EndpointInstance,
    Instance,
    InstanceId,
    Kind,
    ModelInstance,
    RemovalReason,
    Removed,
)
from tests import strategies
from tests.strategies import Delete, Forge, Log, Message, Put, Wait, endpoint, put, rubbish

UNREGISTERED, EXPIRED, MISSING = RemovalReason.UNREGISTERED, RemovalReason.EXPIRED, RemovalReason.MISSING
GRACE, PATIENCE = 1.0, 4.0
A, B = endpoint(1, "a"), endpoint(1, "b")
KEY = put(1).key
UNREGISTER, EXPIRE, FORGE = Delete(KEY, UNREGISTERED), Delete(KEY, EXPIRED), Forge(KEY)

decode = partial(entry.decode, Kind.ENDPOINT)


def added(instance: Instance, before: Instance | None = None) -> Change:
    return Change(key_of(instance.id), before, instance)


def removed(instance: Instance, reason: RemovalReason) -> Change:
    return Change(key_of(instance.id), instance, None, reason)


class Teller:
    """Tells a fold what happens in a bucket, and knows what the bucket holds."""

    def __init__(self) -> None:
        self.fold = Fold(decode, grace=GRACE, patience=PATIENCE)
        self.now = 0.0
        self.changes: list[Change] = []
        self.content: dict[str, Message] = {}

    def happen(self, *log: Message | Wait, told: bool = True, looking: bool = True) -> list[Change]:
        """Let this happen; the changes it led to. What is not `told` reached the bucket but not the fold."""
        before = len(self.changes)
        for what in log:
            if isinstance(what, Wait):
                self.now += what.seconds
                if looking:
                    self.changes += self.fold.advance(self.now)
                continue
            self.content.pop(what.key, None)
            self.content[what.key] = what  # in the order of the last writes, as a stream tells it
            if told:
                self._tell(what)
        return self.changes[before:]

    def snapshot(self, *, tombstones: bool = True, messages: int | None = None) -> list[Change]:
        """Tell what the bucket holds; with `messages` break off after so many."""
        before = len(self.changes)
        self.fold.begin()
        for what in list(self.content.values())[:messages]:
            if tombstones or not isinstance(what, Delete):
                self._tell(what)
        if messages is None:
            self.fold.end(self.now)
        return self.changes[before:]

    def run_out(self) -> None:
        """Let every grace and all patience run out."""
        self.happen(Wait(10 * GRACE))

    @property
    def picture(self) -> dict[InstanceId, Instance]:
        instances = list(self.fold.instances)
        picture = {instance.id: instance for instance in instances}
        assert len(picture) == len(instances)
        return picture

    def _tell(self, what: Message) -> None:
        match what:
            case Put(key, value):
                self.changes += self.fold.put([(key, value)], self.now)
            case Delete(key, reason):
                self.changes += self.fold.delete(key, reason, self.now)
            case Forge(key):
                self.fold.keep(key, self.now)


def told(log: Iterable[Message | Wait]) -> Teller:
    teller = Teller()
    teller.happen(*log)
    return teller


class TestRules:
    """One table for each rule at the top of the module, in its order."""

    @pytest.mark.parametrize(
        ("before", "now", "changes"),
        [
            ([], [put(1)], [added(A)]),
            ([put(1)], [put(1)], []),
            ([put(1)], [put(1, "b")], [added(B, A)]),
            ([put(1)], [put(1, "b"), put(1)], [added(B, A), added(A, B)]),
            ([put(1)], [put(2)], [added(endpoint(2))]),
            ([put(1), UNREGISTER], [put(1)], [added(A)]),
            ([put(1), EXPIRE, Wait(GRACE)], [put(1)], [added(A)]),
        ],
    )
    def test_1_a_put_sets_its_key(self, before: Log, now: Log, changes: list[Change]) -> None:
        assert told(before).happen(*now) == changes

    def test_1_the_same_instance_in_other_bytes_changes_nothing(self) -> None:
        teller = told([put(1)])
        assert teller.happen(put(1, blanks=1)) == []
        assert teller.happen(put(1, blanks=2), put(1)) == []

    @pytest.mark.parametrize(
        ("before", "now", "changes"),
        [
            ([], [rubbish(1), Wait(GRACE)], []),
            ([put(1)], [rubbish(1)], []),
            ([put(1)], [rubbish(1), Wait(PATIENCE / 2)], []),
            ([put(1)], [rubbish(1), Wait(PATIENCE)], [removed(A, MISSING)]),
            (
                [put(1), rubbish(1)],
                [Wait(PATIENCE / 2), rubbish(1), Wait(PATIENCE / 2)],
                [removed(A, MISSING)],
            ),
            ([put(1), rubbish(1)], [Wait(PATIENCE / 2), put(1), Wait(PATIENCE)], []),
            ([put(1), rubbish(1)], [put(1, "b"), Wait(PATIENCE)], [added(B, A)]),
            ([put(1), rubbish(1)], [EXPIRE, Wait(GRACE)], [removed(A, EXPIRED)]),
            ([put(1), rubbish(1)], [UNREGISTER], [removed(A, UNREGISTERED)]),
            ([rubbish(1)], [put(1)], [added(A)]),
            ([put(1)], [rubbish(1, wire.dumps(endpoint(2))), Wait(PATIENCE / 2)], []),
            ([put(1)], [rubbish(1, wire.dumps(endpoint(2))), Wait(PATIENCE)], [removed(A, MISSING)]),
        ],
    )
    def test_2_what_cannot_be_read_proves_nothing_for_a_while(
        self, before: Log, now: Log, changes: list[Change]
    ) -> None:
        assert told(before).happen(*now) == changes

    def test_2_a_snapshot_with_an_unreadable_value_neither_removes_nor_prolongs(self) -> None:
        teller = told([put(1), rubbish(1), Wait(PATIENCE / 2)])
        assert teller.snapshot() == []
        assert teller.happen(Wait(PATIENCE / 2)) == [removed(A, MISSING)]

    def test_2_what_was_written_over_while_nobody_listened_is_kept_as_long(self) -> None:
        teller = told([put(1)])
        teller.happen(rubbish(1), Wait(PATIENCE), told=False)
        assert teller.snapshot() == []
        assert teller.happen(Wait(PATIENCE / 2)) == []
        assert teller.happen(put(1), Wait(PATIENCE)) == []

    def test_2_patience_is_never_shorter_than_the_grace(self) -> None:
        fold = Fold(decode, grace=10.0, patience=1.0)
        fold.put([(KEY, put(1).value), (KEY, b"{")], 0.0)
        assert fold.due == 10.0

    def test_3_what_a_snapshot_does_not_mention_is_absent(self) -> None:
        teller = told([put(1), put(2)])
        teller.content.clear()
        teller.happen(put(2), put(3), told=False)
        assert teller.snapshot() == [added(endpoint(3))]
        assert teller.happen(Wait(GRACE / 2)) == []
        assert teller.happen(Wait(GRACE / 2)) == [removed(A, MISSING)]

    def test_6_after_a_restart_the_absent_are_held_while_owners_come_back(self) -> None:
        teller = told([put(number) for number in range(1, 9)])
        teller.content.clear()  # a server that kept them in memory
        teller.fold.recover(teller.now)
        assert teller.snapshot() == []
        for number in range(1, 5):  # one every two graces: each keeps the others waiting
            assert teller.happen(Wait(2 * GRACE), put(number)) == []
        gone = sorted(teller.happen(Wait(2 * GRACE)), key=lambda change: change.key)
        assert gone == [removed(endpoint(number), MISSING) for number in range(5, 9)]
        assert teller.now == 10 * GRACE
        assert teller.fold.due is None

    def test_6_nobody_is_waited_for_when_none_comes_back(self) -> None:
        teller = told([put(1), put(2)])
        teller.content.clear()
        teller.fold.recover(teller.now)
        teller.snapshot()
        assert teller.happen(Wait(2.9 * GRACE)) == []
        assert len(teller.happen(Wait(0.1 * GRACE))) == 2

    def test_6_an_expiry_is_held_like_an_absence(self) -> None:
        teller = told([put(1), put(2)])
        teller.fold.recover(teller.now)
        assert teller.happen(EXPIRE, Wait(2 * GRACE), put(1)) == []
        assert teller.happen(EXPIRE, Wait(3 * GRACE)) == [removed(A, EXPIRED)]

    def test_6_an_orderly_leave_is_told_at_once(self) -> None:
        teller = told([put(1)])
        teller.fold.recover(teller.now)
        assert teller.happen(EXPIRE) == []
        assert teller.happen(UNREGISTER) == [removed(A, UNREGISTERED)]
        assert teller.happen(Wait(20 * GRACE)) == []

    def test_6_later_removals_are_held_for_the_grace_alone(self) -> None:
        teller = told([put(1)])
        teller.fold.recover(teller.now)
        assert teller.happen(Wait(10 * GRACE), EXPIRE, Wait(GRACE)) == [removed(A, EXPIRED)]

    @pytest.mark.parametrize("lost", [[put(1, "b")], [put(1, "b"), put(1), put(1, "b")]])
    def test_3_what_was_lost_on_the_way_is_found_by_a_snapshot(self, lost: Log) -> None:
        teller = told([put(1)])
        teller.happen(*lost, told=False)
        assert teller.snapshot() == [added(B, A)]

    def test_3_the_end_of_a_snapshot_is_when_the_picture_is_synced(self) -> None:
        fold = Fold(decode, grace=GRACE)
        fold.begin()
        assert not fold.synced
        fold.end(0.0)
        assert fold.synced
        fold.begin()
        assert fold.synced  # once for all: it only gets better

    def test_3_an_end_without_a_beginning_says_nothing(self) -> None:
        fold = Fold(decode, grace=GRACE)
        fold.put([(KEY, put(1).value)], 0.0)
        fold.end(0.0)
        assert not fold.synced
        assert fold.due is None

    def test_3_what_is_told_during_a_snapshot_is_mentioned(self) -> None:
        teller = told([put(1), put(2), put(3), put(4)])
        teller.fold.begin()
        teller.happen(put(1, "b"), rubbish(2), Forge(put(3).key))
        teller.happen(Delete(put(4).key, UNREGISTERED))
        teller.fold.end(teller.now)
        assert set(teller.picture.values()) == {B, endpoint(2), endpoint(3)}
        assert teller.happen(Wait(GRACE)) == []
        assert teller.happen(Wait(PATIENCE)) == [removed(endpoint(2), MISSING), removed(endpoint(3), MISSING)]

    def test_3_a_second_beginning_voids_the_first(self) -> None:
        teller = told([put(1)])
        teller.snapshot(messages=1)
        teller.content.clear()
        teller.snapshot()
        assert teller.happen(Wait(GRACE)) == [removed(A, MISSING)]

    @pytest.mark.parametrize(
        ("before", "now", "changes"),
        [
            ([], [UNREGISTER, EXPIRE, Wait(GRACE)], []),
            ([put(1)], [UNREGISTER], [removed(A, UNREGISTERED)]),
            ([put(1), UNREGISTER], [UNREGISTER, EXPIRE, Wait(GRACE)], []),
            ([put(1)], [EXPIRE], []),
            ([put(1), EXPIRE], [Wait(GRACE / 2)], []),
            ([put(1), EXPIRE], [Wait(GRACE)], [removed(A, EXPIRED)]),
            ([put(1), EXPIRE], [Wait(GRACE / 2), put(1), Wait(GRACE)], []),
            ([put(1), EXPIRE], [put(1, "b"), Wait(GRACE)], [added(B, A)]),
            ([put(1), EXPIRE], [UNREGISTER, Wait(GRACE)], [removed(A, UNREGISTERED)]),
            ([put(1), EXPIRE, put(1)], [Wait(GRACE / 2), EXPIRE, Wait(GRACE / 2)], []),
            ([put(1), EXPIRE], [Wait(GRACE / 2), EXPIRE, Wait(GRACE / 2)], [removed(A, EXPIRED)]),
            ([put(1), rubbish(1)], [Wait(GRACE / 2), EXPIRE, Wait(GRACE / 2)], []),
            ([put(1), rubbish(1)], [Wait(GRACE / 2), EXPIRE, Wait(GRACE)], [removed(A, EXPIRED)]),
            ([put(1), EXPIRE], [Wait(GRACE / 2), rubbish(1), Wait(GRACE / 2)], [removed(A, EXPIRED)]),
        ],
    )
    def test_4_only_what_did_not_leave_by_itself_is_held(
        self, before: Log, now: Log, changes: list[Change]
    ) -> None:
        assert told(before).happen(*now) == changes

    def test_4_a_snapshot_does_not_prolong_a_hold(self) -> None:
        teller = told([put(1), EXPIRE, Wait(GRACE / 2)])
        teller.snapshot(tombstones=False)
        assert teller.happen(Wait(GRACE / 2)) == [removed(A, EXPIRED)]

    def test_4_who_is_back_in_the_snapshot_was_never_away(self) -> None:
        teller = told([put(1), put(2)])
        lost, teller.content = teller.content, {}
        teller.snapshot()
        teller.happen(Wait(GRACE / 2))
        teller.content = lost
        teller.snapshot()
        assert teller.happen(Wait(GRACE)) == []

    def test_4_without_a_grace_what_is_held_is_due_at_once(self) -> None:
        fold = Fold(decode, grace=0.0)
        fold.put([(KEY, put(1).value)], 5.0)
        fold.delete(KEY, EXPIRED, 5.0)
        assert fold.due == 5.0
        assert fold.advance(5.0) == [removed(A, EXPIRED)]

    def test_4_what_is_held_is_still_in_the_picture(self) -> None:
        teller = told([put(1), EXPIRE])
        assert teller.picture == {A.id: A}
        teller.run_out()
        assert teller.picture == {}

    @pytest.mark.parametrize(
        ("before", "changes"),
        [([], []), ([put(1)], []), ([put(1), EXPIRE], [removed(A, EXPIRED)]), ([put(1), UNREGISTER], [])],
    )
    def test_5_a_forgery_changes_nothing_for_a_while(self, before: Log, changes: list[Change]) -> None:
        teller = told(before)
        assert teller.happen(FORGE) == []
        teller.snapshot()
        assert teller.happen(Wait(GRACE)) == changes

    def test_5_what_only_a_forgery_speaks_for_does_not_stay_for_ever(self) -> None:
        teller = told([put(1), FORGE])
        assert teller.happen(Wait(PATIENCE / 2), FORGE, Wait(PATIENCE / 4)) == []
        assert teller.happen(Wait(PATIENCE / 4)) == [removed(A, MISSING)]
        assert told([put(1), FORGE]).happen(put(1), Wait(2 * PATIENCE)) == []

    def test_6_a_change_says_what_was_before_and_after(self) -> None:
        teller = told([put(1), put(1, "b"), EXPIRE, Wait(GRACE)])
        assert teller.changes == [added(A), added(B, A), removed(B, EXPIRED)]


class TestDue:
    def test_nothing_held_is_never_due(self) -> None:
        assert told([put(1), UNREGISTER, put(2)]).fold.due is None

    def test_the_first_hold_is_due_first(self) -> None:
        teller = told([put(1), put(2), put(3)])
        for number, wait in [(2, 0.25), (1, 0.25), (3, 0.0)]:
            teller.happen(Delete(put(number).key, EXPIRED), Wait(wait))
        assert teller.fold.due == GRACE
        assert teller.happen(Wait(GRACE - teller.now)) == [removed(endpoint(2), EXPIRED)]
        assert teller.fold.due == GRACE + 0.25
        assert teller.happen(Wait(0.125)) == []
        assert teller.happen(Wait(10)) == [removed(A, EXPIRED), removed(endpoint(3), EXPIRED)]
        assert teller.fold.due is None

    def test_a_hold_that_ended_is_not_due(self) -> None:
        teller = told([put(1), put(2), EXPIRE, Wait(0.25), Delete(put(2).key, EXPIRED), put(1)])
        assert teller.fold.due == GRACE + 0.25

    def test_a_hold_that_began_again_is_behind_those_that_went_on(self) -> None:
        teller = told([put(1), put(2), EXPIRE, Delete(put(2).key, EXPIRED), Wait(0.25), put(1), EXPIRE])
        assert teller.fold.due == GRACE
        keys = [change.key for change in teller.happen(Wait(GRACE))]
        assert keys == [key_of(endpoint(2).id), KEY]


def naive_picture(log: Log) -> dict[InstanceId, Instance]:
    """What is there when everything has run out: what a key's last message says, if it can be believed."""
    last = {what.key: what for what in log if not isinstance(what, Wait)}
    found = [what.instance for what in last.values() if isinstance(what, Put) and what.instance]
    return {instance.id: instance for instance in found}


def naive_changes(log: Log, key: str) -> list[Change]:
    """The changes of one key, by looking ahead: an absence counts if it lasts."""
    times, said = [], []
    now = 0.0
    for what in log:
        if isinstance(what, Wait):
            now += what.seconds
        elif what.key == key:
            times.append(now)
            said.append(what)
    times.append(float("inf"))
    changes: list[Change] = []
    live: EndpointInstance | None = None
    absent_since: float | None = None
    doubted_since: float | None = None
    reason = MISSING
    for what, at, until in zip(said, times, times[1:], strict=False):
        if isinstance(what, Put) and what.instance is not None:
            if what.instance != live:
                changes.append(added(what.instance, live))
            live, absent_since, doubted_since = what.instance, None, None
            continue
        if live is None:
            continue
        if isinstance(what, Delete):
            reason, doubted_since = what.reason, None
            absent_since = at if absent_since is None else absent_since
        elif absent_since is None:
            reason, doubted_since = MISSING, at if doubted_since is None else doubted_since
        ends = [] if absent_since is None else [absent_since + GRACE]
        ends += [] if doubted_since is None else [doubted_since + PATIENCE]
        if reason is UNREGISTERED or until >= min(ends):
            changes.append(removed(live, reason))
            live, absent_since, doubted_since = None, None, None
    return changes


def check_legal(changes: Iterable[Change]) -> None:
    """Removed only after Added; Added on a live id means a changed instance."""
    live: dict[str, Instance] = {}
    for change in changes:
        assert change.before == live.get(change.key)
        assert change.before != change.after
        if change.after is None:
            assert change.reason is not None
            del live[change.key]
        else:
            assert change.reason is None
            assert key_of(change.after.id) == change.key
            live[change.key] = change.after


class TestEveryWayOfTelling:
    @settings(max_examples=300)
    @given(log=strategies.logs)
    def test_the_changes_are_those_of_a_naive_model(self, log: Log) -> None:
        teller = told(log)
        teller.run_out()
        check_legal(teller.changes)
        assert teller.picture == naive_picture(log)
        for number in (1, 2, 3):
            of_one = [change for change in teller.changes if change.key == key_of(endpoint(number).id)]
            assert of_one == naive_changes(log, put(number).key)

    @given(log=strategies.logs)
    def test_told_whole_or_one_by_one_the_picture_is_the_same(self, log: Log) -> None:
        whole = Teller()
        whole.happen(*log, looking=False)
        whole.run_out()
        check_legal(whole.changes)
        assert whole.picture == naive_picture(log)

    @given(log=strategies.logs, tombstones=st.booleans())
    @example(log=[put(1), EXPIRE, Wait(0.5), put(1), Wait(1.0)], tombstones=False)
    @example(log=[put(1), FORGE, EXPIRE, FORGE, Wait(1.0), FORGE], tombstones=True)
    def test_a_snapshot_at_any_moment_changes_nothing(self, log: Log, tombstones: bool) -> None:
        expected = told(log)
        expected.run_out()
        for at in range(len(log) + 1):
            teller = told(log[:at])
            assert teller.snapshot(tombstones=tombstones) == []
            teller.happen(*log[at:])
            teller.run_out()
            assert teller.changes == expected.changes
            assert teller.picture == expected.picture

    @given(log=strategies.logs, messages=st.integers(0, 3))
    def test_a_snapshot_that_broke_off_changes_nothing(self, log: Log, messages: int) -> None:
        expected = told(log)
        expected.run_out()
        for at in range(len(log) + 1):
            teller = told(log[:at])
            assert teller.snapshot(messages=messages) == []
            teller.happen(*log[at:])
            assert teller.snapshot() == []
            teller.run_out()
            assert teller.changes == expected.changes

    @given(log=strategies.honest_logs, length=st.integers(1, 5), tombstones=st.booleans())
    def test_a_snapshot_makes_good_any_loss(self, log: Log, length: int, tombstones: bool) -> None:
        for at in range(len(log)):
            teller = told(log[:at])
            teller.happen(*log[at : at + length], told=False)
            teller.snapshot(tombstones=tombstones)
            teller.happen(*log[at + length :])
            teller.run_out()
            check_legal(teller.changes)
            assert teller.picture == naive_picture(log)

    @given(log=strategies.logs, sizes=st.lists(st.integers(1, 6), max_size=12))
    def test_values_told_in_batches_of_any_size_lead_to_the_same(self, log: Log, sizes: list[int]) -> None:
        expected = told(log)
        teller, batch, left = Teller(), list[tuple[str, bytes]](), iter(sizes)

        def tell() -> None:
            teller.changes += teller.fold.put(batch, teller.now)
            batch.clear()

        size = next(left, 1)
        for what in log:
            if isinstance(what, Put):
                batch.append((what.key, what.value))
                if len(batch) < size:
                    continue
                size = next(left, 1)
                tell()
            else:
                tell()
                teller.happen(what)
        tell()
        assert teller.changes == expected.changes
        assert teller.picture == expected.picture

    @settings(max_examples=100)
    @given(log=strategies.logs, looks=st.lists(st.integers(0, 3), min_size=1, max_size=24))
    def test_a_reader_who_looks_now_and_then_ends_with_the_same_map(self, log: Log, looks: list[int]) -> None:
        """Whole, one by one, or with a snapshot at any moment, and the backlog in between."""
        expected = told(log)
        expected.run_out()
        for at in (None, *range(len(log) + 1)):
            teller, backlog, reader = Teller(), Backlog(), Reader()
            for index, what in enumerate([*log, Wait(10 * GRACE)]):
                if index == at:
                    backlog.push(teller.snapshot())
                backlog.push(teller.happen(what))
                assert len(backlog) <= len(teller.picture.keys() | reader.knows.keys())
                for _ in range(min(looks[index % len(looks)], len(backlog))):
                    reader.look(backlog)
            while backlog:
                reader.look(backlog)
            assert reader.knows == expected.picture == naive_picture(log)

    @given(log=strategies.honest_logs, length=st.integers(1, 5), looks=st.lists(st.booleans(), min_size=1))
    def test_a_reader_who_looks_now_and_then_gets_over_any_loss(
        self, log: Log, length: int, looks: list[bool]
    ) -> None:
        for at in range(len(log)):
            teller, backlog, reader = Teller(), Backlog(), Reader()
            for index, what in enumerate([*log, Wait(10 * GRACE)]):
                lost = at <= index < at + length and not isinstance(what, Wait)
                backlog.push(teller.happen(what, told=not lost))
                if index == min(at + length, len(log)):
                    backlog.push(teller.snapshot(tombstones=False))
                    backlog.push(teller.happen(Wait(10 * GRACE)) if index == len(log) else [])
                if backlog and looks[index % len(looks)]:
                    reader.look(backlog)
            while backlog:
                reader.look(backlog)
            assert reader.knows == naive_picture(log)

    @given(log=strategies.logs)
    def test_what_is_due_is_never_in_the_past(self, log: Log) -> None:
        teller = Teller()
        for what in log:
            teller.happen(what)
            due = teller.fold.due
            assert due is None or teller.now < due <= teller.now + PATIENCE

    @given(log=strategies.logs, more=st.lists(st.sampled_from([rubbish(1), FORGE, Wait(0.25)]), max_size=12))
    @example(log=[put(1)], more=[rubbish(1), Wait(0.25), FORGE])
    def test_what_proves_nothing_removes_nobody_within_the_patience(self, log: Log, more: Log) -> None:
        teller = told(log)
        held = teller.fold.due is not None  # something else may be on its way out already
        began, there = teller.now, A.id in teller.picture
        changes = teller.happen(*more)
        teller.snapshot()
        if not held:
            assert teller.now - began < PATIENCE
            assert changes == []
            assert (A.id in teller.picture) == there


# The backlog. A picture moves on, and a reader looks at it now and then.


NUMBERS = st.integers(1, 3)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), NUMBERS, st.sampled_from("abc")),
        st.tuples(st.just("drop"), NUMBERS, st.sampled_from(list(RemovalReason))),
        st.tuples(st.just("look"), NUMBERS, st.none()),
    ),
    max_size=40,
)
Move = tuple[str, int, str | RemovalReason | None]


class Reader:
    """What somebody knows who applies events; it does not stand being told what it knows."""

    def __init__(self) -> None:
        self.knows: dict[InstanceId, Instance] = {}

    def look(self, backlog: Backlog) -> None:
        match backlog.pop():
            case Added(instance):
                assert self.knows.get(instance.id) != instance
                self.knows[instance.id] = instance
            case Removed(id, _, last):
                assert self.knows.pop(id) == last


def differences(one: dict[InstanceId, Instance], other: dict[InstanceId, Instance]) -> set[InstanceId]:
    return {id for id in one.keys() | other.keys() if one.get(id) != other.get(id)}


class TestBacklog:
    @settings(max_examples=300)
    @given(moves=MOVES, start=st.sets(NUMBERS))
    def test_it_holds_what_the_reader_does_not_know_and_no_more(
        self, moves: list[Move], start: set[int]
    ) -> None:
        picture: dict[InstanceId, Instance] = {endpoint(n).id: endpoint(n) for n in start}
        backlog, reader = Backlog({key_of(id): it for id, it in picture.items()}), Reader()
        for move, number, what in moves:
            id = endpoint(number).id
            before = picture.get(id)
            change: Change | None = None
            if move == "look":
                if backlog:
                    reader.look(backlog)
            elif isinstance(what, RemovalReason):
                if before is not None:
                    change = Change(key_of(id), picture.pop(id), None, what)
            else:
                picture[id] = endpoint(number, str(what))
                if picture[id] != before:
                    change = Change(key_of(id), before, picture[id])
            if change is not None:
                nothing_pending = reader.knows.get(id) == before
                assert backlog.push([change]) == (not nothing_pending)
            assert len(backlog) == len(differences(picture, reader.knows))
        while backlog:
            reader.look(backlog)
        assert reader.knows == picture

    @pytest.mark.parametrize(
        "changes",
        [
            [added(A), removed(A, UNREGISTERED)],
            [added(A), added(B, A), removed(B, EXPIRED)],
            [removed(A, EXPIRED), added(A)],
            [added(B, A), added(A, B)],
            [removed(A, EXPIRED), added(B), added(A, B)],
        ],
    )
    def test_what_ends_where_it_began_is_dropped(self, changes: list[Change]) -> None:
        backlog = Backlog()
        assert backlog.push(changes) == len(changes) - 1
        assert len(backlog) == 0

    @pytest.mark.parametrize(
        ("changes", "event"),
        [
            ([added(A), added(B, A)], Added(B)),
            ([removed(A, EXPIRED), added(B)], Added(B)),
            ([added(B, A), removed(B, EXPIRED)], Removed(A.id, EXPIRED)),
            ([removed(A, EXPIRED), added(B), removed(B, UNREGISTERED)], Removed(A.id, UNREGISTERED)),
        ],
    )
    def test_a_later_change_replaces_an_earlier_one(
        self, changes: list[Change], event: Added | Removed
    ) -> None:
        backlog = Backlog()
        for change in changes:
            backlog.push([change])
        assert len(backlog) == 1
        assert backlog.pop() == event

    def test_a_removal_has_the_instance_that_the_reader_saw_last(self) -> None:
        backlog = Backlog()
        backlog.push([added(B, A)])
        backlog.push([removed(B, EXPIRED)])
        event = backlog.pop()
        assert isinstance(event, Removed)
        assert event.last == A

    def test_the_oldest_is_first(self) -> None:
        backlog = Backlog({key_of(it.id): it for it in (endpoint(3), endpoint(1))})
        backlog.push([added(endpoint(2))])
        backlog.push([added(endpoint(4))])
        backlog.push([added(endpoint(2, "b"), endpoint(2))])
        assert [backlog.pop() for _ in range(4)] == [
            Added(endpoint(3)),
            Added(endpoint(1)),
            Added(endpoint(2, "b")),
            Added(endpoint(4)),
        ]

    def test_an_empty_one_raises_key_error(self) -> None:
        with pytest.raises(KeyError):
            Backlog().pop()

    def test_cards_as_deep_as_a_bucket_may_hold_can_be_compared(self) -> None:
        """Whoever may write one key must not end a watch."""

        def card(core: bytes) -> ModelInstance:
            shallow = wire.dumps(ModelInstance("ns", "c", "e", 1, card="core"))
            instance = wire.loads(shallow.replace(b'"core"', b"[" * 1000 + core + b"]" * 1000))
            assert isinstance(instance, ModelInstance)
            return instance

        try:
            one, other, again = card(b"1"), card(b"2"), card(b"1")
        except InvalidValueError:
            return  # refused at the door: just as well
        backlog = Backlog()
        backlog.push([added(other, one)])
        backlog.push([added(again, other)])
        assert len(backlog) in (0, 1)


def test_nothing_here_asks_for_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise AssertionError("a pure module asked for the time")

    forbidden: list[tuple[str, Callable[..., float]]] = [("time.time", refuse), ("time.monotonic", refuse)]
    for name, function in forbidden:
        monkeypatch.setattr(name, function)
    assert told([put(1), EXPIRE, Wait(GRACE)]).changes == [added(A), removed(A, EXPIRED)]


@pytest.mark.parametrize("changes", [0, 1, 8, 9, 1000, 3000])
def test_a_few_changes_are_remembered(changes: int) -> None:
    fold = Fold(decode, grace=GRACE)
    told = [change for number in range(changes) for change in fold.put([_entry(number)], 0.0)]
    assert fold.version == len(told) == changes
    assert fold.since(changes) == []
    kept = min(changes, few(changes))
    for back in range(1, kept + 1):
        assert fold.since(changes - back) == told[-back:]
    assert fold.since(changes - kept - 1) is None


def test_what_is_remembered_does_not_outgrow_the_picture() -> None:
    fold = Fold(decode, grace=GRACE)
    for number in range(1000):
        fold.put([(KEY, put(1, str(number)).value)], 0.0)
        assert len(fold._recent) <= few(1)


def _entry(number: int) -> tuple[str, bytes]:
    instance = endpoint(number, "a")
    return key_of(instance.id), wire.dumps(instance)
