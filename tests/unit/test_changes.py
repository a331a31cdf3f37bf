"""The changes that a reader has not been told yet. A picture moves on, and a reader looks now and then."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natsdisc import wire
from natsdisc.changes import Change, PendingChanges
from natsdisc.errors import InvalidValueError
from natsdisc.keys import key_of
from natsdisc.model import Added, Instance, InstanceId, ModelInstance, RemovalReason, Removed
from tests.strategies import endpoint

from .telling import EXPIRED, UNREGISTERED, A, B, Reader, added, removed

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


def differences(one: dict[InstanceId, Instance], other: dict[InstanceId, Instance]) -> set[InstanceId]:
    return {id for id in one.keys() | other.keys() if one.get(id) != other.get(id)}


class TestBacklog:
    @settings(max_examples=300)
    @given(moves=MOVES, start=st.sets(NUMBERS))
    def test_it_holds_what_the_reader_does_not_know_and_no_more(
        self, moves: list[Move], start: set[int]
    ) -> None:
        picture: dict[InstanceId, Instance] = {endpoint(n).id: endpoint(n) for n in start}
        pending, reader = PendingChanges({key_of(id): it for id, it in picture.items()}), Reader()
        for move, number, what in moves:
            id = endpoint(number).id
            before = picture.get(id)
            change: Change | None = None
            if move == "look":
                if pending:
                    reader.look(pending)
            elif isinstance(what, RemovalReason):
                if before is not None:
                    change = Change(key_of(id), picture.pop(id), None, what)
            else:
                picture[id] = endpoint(number, str(what))
                if picture[id] != before:
                    change = Change(key_of(id), before, picture[id])
            if change is not None:
                nothing_pending = reader.knows.get(id) == before
                assert pending.push([change]) == (not nothing_pending)
            assert len(pending) == len(differences(picture, reader.knows))
        while pending:
            reader.look(pending)
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
        pending = PendingChanges()
        assert pending.push(changes) == len(changes) - 1
        assert len(pending) == 0

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
        pending = PendingChanges()
        for change in changes:
            pending.push([change])
        assert len(pending) == 1
        assert pending.pop() == event

    def test_a_removal_has_the_instance_that_the_reader_saw_last(self) -> None:
        pending = PendingChanges()
        pending.push([added(B, A)])
        pending.push([removed(B, EXPIRED)])
        event = pending.pop()
        assert isinstance(event, Removed)
        assert event.last == A

    def test_the_oldest_is_first(self) -> None:
        pending = PendingChanges({key_of(it.id): it for it in (endpoint(3), endpoint(1))})
        pending.push([added(endpoint(2))])
        pending.push([added(endpoint(4))])
        pending.push([added(endpoint(2, "b"), endpoint(2))])
        assert [pending.pop() for _ in range(4)] == [
            Added(endpoint(3)),
            Added(endpoint(1)),
            Added(endpoint(2, "b")),
            Added(endpoint(4)),
        ]

    def test_an_empty_one_raises_key_error(self) -> None:
        with pytest.raises(KeyError):
            PendingChanges().pop()

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
        pending = PendingChanges()
        pending.push([added(other, one)])
        pending.push([added(again, other)])
        assert len(pending) in (0, 1)
