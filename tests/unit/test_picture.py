"""The picture stays in order, however many changes there were since it was read."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natsdisc import EndpointInstance, ModelInstance, RemovalReason, Status, Transport
from natsdisc.balance import is_draining
from natsdisc.changes import Change
from natsdisc.keys import key_of
from natsdisc.model import Instance, sort_key
from natsdisc.picture import Picture, cheaper_to_patch, without


def endpoint(number: int, draining: bool = False, address: str = "a") -> EndpointInstance:
    names = ("a", "b", "ab"[number % 2])
    status = Status.DRAINING if draining else Status.SERVING
    return EndpointInstance(*names, number, transport=Transport.nats(address), status=status)


def put(picture: Picture, *instances: Instance) -> None:
    for one in instances:
        key = key_of(one.id)
        picture.apply(Change(key, picture.live.get(key), one))


def remove(picture: Picture, instance: Instance) -> None:
    key = key_of(instance.id)
    if key in picture.live:
        picture.apply(Change(key, picture.live[key], None, RemovalReason.UNREGISTERED))


def assert_right(picture: Picture) -> None:
    ordered = sorted(picture.live.values(), key=sort_key)
    assert list(picture.instances) == ordered
    assert list(picture.preferred) == ([one for one in ordered if not is_draining(one)] or ordered)


steps = st.tuples(st.integers(0, 40), st.sampled_from(["put", "put", "drain", "move", "remove", "read"]))


@given(st.lists(st.lists(steps, max_size=12), max_size=12))
def test_any_changes(rounds: list[list[tuple[int, str]]]) -> None:
    picture = Picture()
    for taken in rounds:
        for number, step in taken:
            if step == "remove":
                remove(picture, endpoint(number))
            elif step == "read":
                assert_right(picture)
            else:
                put(picture, endpoint(number, step == "drain", step))
    assert_right(picture)
    assert_right(picture.copy())


@pytest.mark.parametrize("missed", [0, 1, 7, 39, 40, 900, 1000, 1001, 2500])
def test_however_many_changes_since_the_last_look(missed: int) -> None:
    picture = Picture()
    put(picture, *map(endpoint, range(2000)))
    assert_right(picture)
    for number in range(missed):
        put(picture, endpoint(number * 3 % 2400, number % 5 == 0, str(number)))
    assert_right(picture)


def test_a_few_changes_of_many_sort_nothing() -> None:
    picture = Picture()
    put(picture, *map(endpoint, range(1000)))
    assert len(picture.instances) == 1000
    picture.live.pop(key_of(endpoint(999).id))  # sorting all of them would miss it
    put(picture, endpoint(3, address="new"), endpoint(5000))
    assert len(picture.instances) == 1001
    assert endpoint(999) in picture.instances


def test_what_was_read_stays_what_it_was() -> None:
    picture = Picture()
    put(picture, endpoint(1), endpoint(2))
    before = picture.instances
    assert picture.instances is before
    assert picture.preferred is before
    copied = picture.copy()
    remove(picture, endpoint(1))
    assert (len(before), len(picture.instances), len(copied.instances)) == (2, 1, 2)


def test_cards_with_and_without_a_suffix() -> None:
    picture = Picture()
    cards = [ModelInstance("a", "b", "c", 1, card=1, model_suffix=suffix) for suffix in ("x", None, "a")]
    for card in cards:
        put(picture, card)
        assert_right(picture)
    remove(picture, cards[1])
    assert_right(picture)


def test_what_is_remembered_does_not_outgrow_the_picture() -> None:
    picture = Picture()
    for number in range(1000):
        put(picture, endpoint(1, address=str(number)))
        assert len(picture._recent) <= cheaper_to_patch(1)


def test_threads_may_read_while_it_changes() -> None:
    """Nothing that a thread sees is out of order, and what it worked out is right in the end."""
    picture = Picture()
    put(picture, *map(endpoint, range(500)))
    wrong: list[object] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            for seen in (picture.instances, picture.preferred):
                ids = [sort_key(one) for one in seen]
                wrong.extend([ids] if ids != sorted(set(ids)) else [])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    readers = [threading.Thread(target=read) for _ in range(2)]
    try:
        for reader in readers:
            reader.start()
        for number in range(2000):
            put(picture, endpoint(number % 700, number % 3 == 0, str(number)))
            remove(picture, endpoint(number * 7 % 700))
    finally:
        ended.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert not wrong
    assert_right(picture)


@settings(max_examples=50)
@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 320), max_size=60))
def test_leaving_out(numbers: set[int], left_out: set[int]) -> None:
    instances = tuple(sorted(map(endpoint, numbers), key=sort_key))
    rest = without(instances, {sort_key(endpoint(number)) for number in left_out})
    assert rest == tuple(one for one in instances if one.instance_id not in left_out)
