"""What a view keeps in order, however many changes there were since it was read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natsdisc import EndpointInstance, ModelInstance, RemovalReason, Status, Transport, wire
from natsdisc.balance import is_draining
from natsdisc.fold import Fold
from natsdisc.keys import key_of
from natsdisc.model import Instance, sort_key
from natsdisc.order import Order, without


def endpoint(number: int, draining: bool = False, address: str = "a") -> EndpointInstance:
    names = ("a", "b", "ab"[number % 2])
    status = Status.DRAINING if draining else Status.SERVING
    return EndpointInstance(*names, number, transport=Transport.nats(address), status=status)


def put(picture: Fold, *instances: Instance) -> None:
    picture.put([(key_of(one.id), wire.dumps(one)) for one in instances], 0.0)


def remove(picture: Fold, instance: Instance) -> None:
    picture.delete(key_of(instance.id), RemovalReason.UNREGISTERED, 0.0)


def new_picture() -> Fold:
    return Fold(lambda key, value: wire.loads(value), grace=0.0)


def assert_right(order: Order, picture: Fold) -> None:
    order.follow(picture)
    assert list(order.instances) == sorted(picture.instances, key=sort_key)
    assert order.draining == {sort_key(one) for one in picture.instances if is_draining(one)}


steps = st.tuples(st.integers(0, 40), st.sampled_from(["put", "put", "drain", "move", "remove", "read"]))


@given(st.lists(st.lists(steps, max_size=12), max_size=12))
def test_any_changes(rounds: list[list[tuple[int, str]]]) -> None:
    picture, order, now_and_then = new_picture(), Order(), Order()
    for taken in rounds:
        for number, step in taken:
            if step == "remove":
                remove(picture, endpoint(number))
            elif step == "read":
                assert_right(now_and_then, picture)
            else:
                put(picture, endpoint(number, step == "drain", step))
        assert_right(order, picture)
    assert_right(now_and_then, picture)


@pytest.mark.parametrize("missed", [0, 1, 7, 900, 999, 1000, 1001, 2500])
def test_however_far_it_is_behind(missed: int) -> None:
    picture, order = new_picture(), Order()
    put(picture, *map(endpoint, range(2000)))
    assert_right(order, picture)
    for number in range(missed):
        put(picture, endpoint(number * 3 % 2400, number % 5 == 0, str(number)))
    assert_right(order, picture)


def test_a_few_changes_of_many_sort_nothing() -> None:
    picture, order = new_picture(), Order()
    put(picture, *map(endpoint, range(1000)))
    order.follow(picture)
    picture._live.pop(key_of(endpoint(999).id))  # whoever looked at all of them would miss it
    put(picture, endpoint(3, address="new"), endpoint(5000))
    order.follow(picture)
    assert len(order.instances) == 1001
    assert endpoint(999) in order.instances


def test_what_was_read_stays_what_it_was() -> None:
    picture, order = new_picture(), Order()
    put(picture, endpoint(1), endpoint(2))
    order.follow(picture)
    before = order.instances
    order.follow(picture)
    assert order.instances is before
    remove(picture, endpoint(1))
    order.follow(picture)
    assert (len(before), len(order.instances)) == (2, 1)


def test_cards_with_and_without_a_suffix() -> None:
    picture, order = new_picture(), Order()
    cards = [ModelInstance("a", "b", "c", 1, card=1, model_suffix=suffix) for suffix in ("x", None, "a")]
    for card in cards:
        put(picture, card)
        assert_right(order, picture)
    remove(picture, cards[1])
    assert_right(order, picture)


@settings(max_examples=50)
@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 320), max_size=60))
def test_leaving_out(numbers: set[int], left_out: set[int]) -> None:
    instances = tuple(sorted(map(endpoint, numbers), key=sort_key))
    rest = without(instances, {sort_key(endpoint(number)) for number in left_out})
    assert rest == tuple(one for one in instances if one.instance_id not in left_out)
