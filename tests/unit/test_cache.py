"""From what a reader reports to what changed: the rules of the cache."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from natsdisc import wire
from natsdisc.cache import Cache
from natsdisc.changes import Change
from natsdisc.keys import key_of
from tests.strategies import Delete, Forge, Log, Wait, endpoint, put, rubbish

from .telling import (
    EXPIRE,
    EXPIRED,
    FORGE,
    GRACE,
    KEY,
    MISSING,
    PATIENCE,
    UNREGISTER,
    UNREGISTERED,
    A,
    B,
    added,
    decode,
    removed,
    told,
)


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
        cache = Cache(decode, grace=10.0, patience=1.0)
        cache.put([(KEY, put(1).value), (KEY, b"{")], 0.0)
        assert cache.due == 10.0

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
        teller.cache.recover(teller.now)
        assert teller.snapshot() == []
        for number in range(1, 5):  # one every two graces: each keeps the others waiting
            assert teller.happen(Wait(2 * GRACE), put(number)) == []
        gone = sorted(teller.happen(Wait(2 * GRACE)), key=lambda change: change.key)
        assert gone == [removed(endpoint(number), MISSING) for number in range(5, 9)]
        assert teller.now == 10 * GRACE
        assert teller.cache.due is None

    def test_6_nobody_is_waited_for_when_none_comes_back(self) -> None:
        teller = told([put(1), put(2)])
        teller.content.clear()
        teller.cache.recover(teller.now)
        teller.snapshot()
        assert teller.happen(Wait(2.9 * GRACE)) == []
        assert len(teller.happen(Wait(0.1 * GRACE))) == 2

    def test_6_an_expiry_is_held_like_an_absence(self) -> None:
        teller = told([put(1), put(2)])
        teller.cache.recover(teller.now)
        assert teller.happen(EXPIRE, Wait(2 * GRACE), put(1)) == []
        assert teller.happen(EXPIRE, Wait(3 * GRACE)) == [removed(A, EXPIRED)]

    def test_6_an_orderly_leave_is_told_at_once(self) -> None:
        teller = told([put(1)])
        teller.cache.recover(teller.now)
        assert teller.happen(EXPIRE) == []
        assert teller.happen(UNREGISTER) == [removed(A, UNREGISTERED)]
        assert teller.happen(Wait(20 * GRACE)) == []

    def test_6_later_removals_are_held_for_the_grace_alone(self) -> None:
        teller = told([put(1)])
        teller.cache.recover(teller.now)
        assert teller.happen(Wait(10 * GRACE), EXPIRE, Wait(GRACE)) == [removed(A, EXPIRED)]

    @pytest.mark.parametrize("lost", [[put(1, "b")], [put(1, "b"), put(1), put(1, "b")]])
    def test_3_what_was_lost_on_the_way_is_found_by_a_snapshot(self, lost: Log) -> None:
        teller = told([put(1)])
        teller.happen(*lost, told=False)
        assert teller.snapshot() == [added(B, A)]

    def test_3_a_resync_tells_what_is_missing_and_what_is_new_and_nothing_else(self) -> None:
        # As Dynamo's own test: one goes, one stays, one comes, and one can no longer be read.
        teller = told([put(1), put(2), put(4)])
        teller.happen(put(3), rubbish(4), told=False)
        del teller.content[KEY]  # its tombstone has expired as well
        assert teller.snapshot() == [added(endpoint(3))]
        assert set(teller.picture.values()) == {A, endpoint(2), endpoint(3), endpoint(4)}
        assert teller.happen(Wait(GRACE)) == [removed(A, MISSING)]
        assert set(teller.picture.values()) == {endpoint(2), endpoint(3), endpoint(4)}

    def test_3_the_end_of_a_snapshot_is_when_the_picture_is_synced(self) -> None:
        cache = Cache(decode, grace=GRACE)
        cache.begin()
        assert not cache.picture.synced
        cache.end(0.0)
        assert cache.picture.synced
        cache.begin()
        assert cache.picture.synced  # once for all: it only gets better

    def test_3_an_end_without_a_beginning_says_nothing(self) -> None:
        cache = Cache(decode, grace=GRACE)
        cache.put([(KEY, put(1).value)], 0.0)
        cache.end(0.0)
        assert not cache.picture.synced
        assert cache.due is None

    def test_3_what_is_told_during_a_snapshot_is_mentioned(self) -> None:
        teller = told([put(1), put(2), put(3), put(4)])
        teller.cache.begin()
        teller.happen(put(1, "b"), rubbish(2), Forge(put(3).key))
        teller.happen(Delete(put(4).key, UNREGISTERED))
        teller.cache.end(teller.now)
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
        cache = Cache(decode, grace=0.0)
        cache.put([(KEY, put(1).value)], 5.0)
        cache.delete(KEY, EXPIRED, 5.0)
        assert cache.due == 5.0
        assert cache.advance(5.0) == [removed(A, EXPIRED)]

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
        assert told([put(1), UNREGISTER, put(2)]).cache.due is None

    def test_the_first_hold_is_due_first(self) -> None:
        teller = told([put(1), put(2), put(3)])
        for number, wait in [(2, 0.25), (1, 0.25), (3, 0.0)]:
            teller.happen(Delete(put(number).key, EXPIRED), Wait(wait))
        assert teller.cache.due == GRACE
        assert teller.happen(Wait(GRACE - teller.now)) == [removed(endpoint(2), EXPIRED)]
        assert teller.cache.due == GRACE + 0.25
        assert teller.happen(Wait(0.125)) == []
        assert teller.happen(Wait(10)) == [removed(A, EXPIRED), removed(endpoint(3), EXPIRED)]
        assert teller.cache.due is None

    def test_a_hold_that_ended_is_not_due(self) -> None:
        teller = told([put(1), put(2), EXPIRE, Wait(0.25), Delete(put(2).key, EXPIRED), put(1)])
        assert teller.cache.due == GRACE + 0.25

    def test_a_hold_that_began_again_is_behind_those_that_went_on(self) -> None:
        teller = told([put(1), put(2), EXPIRE, Delete(put(2).key, EXPIRED), Wait(0.25), put(1), EXPIRE])
        assert teller.cache.due == GRACE
        keys = [change.key for change in teller.happen(Wait(GRACE))]
        assert keys == [key_of(endpoint(2).id), KEY]


def test_nothing_here_asks_for_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise AssertionError("a pure module asked for the time")

    forbidden: list[tuple[str, Callable[..., float]]] = [("time.time", refuse), ("time.monotonic", refuse)]
    for name, function in forbidden:
        monkeypatch.setattr(name, function)
    assert told([put(1), EXPIRE, Wait(GRACE)]).changes == [added(A), removed(A, EXPIRED)]
