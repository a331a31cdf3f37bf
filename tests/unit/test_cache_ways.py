"""No way of telling a cache matters: whole, one by one, in batches, with snapshots, or with losses."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from natsdisc.changes import PendingChanges
from natsdisc.keys import key_of
from tests import strategies
from tests.strategies import Log, Put, Wait, endpoint, put, rubbish

from .telling import (
    EXPIRE,
    FORGE,
    GRACE,
    PATIENCE,
    A,
    Reader,
    Teller,
    check_legal,
    naive_changes,
    naive_picture,
    told,
)


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
            teller.changes += teller.cache.put(batch, teller.now)
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
        """Whole, one by one, or with a snapshot at any moment, and the pending in between."""
        expected = told(log)
        expected.run_out()
        for at in (None, *range(len(log) + 1)):
            teller, pending, reader = Teller(), PendingChanges(), Reader()
            for index, what in enumerate([*log, Wait(10 * GRACE)]):
                if index == at:
                    pending.push(teller.snapshot())
                pending.push(teller.happen(what))
                assert len(pending) <= len(teller.picture.keys() | reader.knows.keys())
                for _ in range(min(looks[index % len(looks)], len(pending))):
                    reader.look(pending)
            while pending:
                reader.look(pending)
            assert reader.knows == expected.picture == naive_picture(log)

    @given(log=strategies.honest_logs, length=st.integers(1, 5), looks=st.lists(st.booleans(), min_size=1))
    def test_a_reader_who_looks_now_and_then_gets_over_any_loss(
        self, log: Log, length: int, looks: list[bool]
    ) -> None:
        for at in range(len(log)):
            teller, pending, reader = Teller(), PendingChanges(), Reader()
            for index, what in enumerate([*log, Wait(10 * GRACE)]):
                lost = at <= index < at + length and not isinstance(what, Wait)
                pending.push(teller.happen(what, told=not lost))
                if index == min(at + length, len(log)):
                    pending.push(teller.snapshot(tombstones=False))
                    pending.push(teller.happen(Wait(10 * GRACE)) if index == len(log) else [])
                if pending and looks[index % len(looks)]:
                    reader.look(pending)
            while pending:
                reader.look(pending)
            assert reader.knows == naive_picture(log)

    @given(log=strategies.logs)
    def test_what_is_due_is_never_in_the_past(self, log: Log) -> None:
        teller = Teller()
        for what in log:
            teller.happen(what)
            due = teller.cache.due
            assert due is None or teller.now < due <= teller.now + PATIENCE

    @given(log=strategies.logs, more=st.lists(st.sampled_from([rubbish(1), FORGE, Wait(0.25)]), max_size=12))
    @example(log=[put(1)], more=[rubbish(1), Wait(0.25), FORGE])
    def test_what_proves_nothing_removes_nobody_within_the_patience(self, log: Log, more: Log) -> None:
        teller = told(log)
        held = teller.cache.due is not None  # something else may be on its way out already
        began, there = teller.now, A.id in teller.picture
        changes = teller.happen(*more)
        teller.snapshot()
        if not held:
            assert teller.now - began < PATIENCE
            assert changes == []
            assert (A.id in teller.picture) == there
