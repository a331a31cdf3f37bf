"""Pickers on plain sequences: who is picked how often, and what a picker remembers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc import (
    DiscoveryError,
    EndpointInstance,
    Instance,
    ModelInstance,
    NoInstanceError,
    Status,
    Transport,
)
from natsdisc.balance import (
    Balance,
    LeastOutstanding,
    PreferZone,
    Random,
    Rendezvous,
    RoundRobin,
    Weighted,
    for_view,
    is_draining,
    weight_of,
    zone_of,
)

ROOT = Path(__file__).resolve().parents[2]
PICKS = 10_000
PICKERS: dict[str, Callable[[], Balance]] = {
    "round robin": RoundRobin,
    "random": lambda: Random(random.Random(1)),
    "least outstanding": lambda: LeastOutstanding(random.Random(1)),
    "weighted": lambda: Weighted(random.Random(1)),
    "prefer zone": lambda: PreferZone("a"),
}


def endpoint(number: int, **metadata: Any) -> EndpointInstance:
    return EndpointInstance(
        "shop", "cart", "checkout", number, transport=Transport.nats("s"), metadata=metadata
    )


def endpoints(count: int) -> tuple[EndpointInstance, ...]:
    return tuple(endpoint(number) for number in range(count))


def shares(picker: Balance, instances: Sequence[Instance], picks: int = PICKS) -> dict[int, float]:
    """The part of the picks that each instance got, by number."""
    counted = Counter(picker.pick(instances).instance_id for _ in range(picks))
    return {number: count / picks for number, count in counted.items()}


@pytest.fixture(params=list(PICKERS))
def picker(request: pytest.FixtureRequest) -> Balance:
    return PICKERS[request.param]()


class TestEveryPicker:
    def test_nobody_to_pick(self, picker: Balance) -> None:
        nobodies: list[Sequence[Instance]] = [(), []]
        for nobody in nobodies:
            with pytest.raises(NoInstanceError, match="no instance"):
                picker.pick(nobody)
        assert issubclass(NoInstanceError, DiscoveryError)

    def test_nobody_any_more(self, picker: Balance) -> None:
        picker.pick(endpoints(3))
        with pytest.raises(NoInstanceError):
            picker.pick(())

    def test_the_only_one(self, picker: Balance) -> None:
        [only] = one = endpoints(1)
        assert [picker.pick(one) for _ in range(5)] == [only] * 5

    def test_everybody_has_a_share(self, picker: Balance) -> None:
        assert shares(picker, endpoints(4)) == pytest.approx(dict.fromkeys(range(4), 0.25), abs=0.02)

    def test_any_kind_of_sequence_of_any_kind_of_instance(self, picker: Balance) -> None:
        cards = [ModelInstance("shop", "cart", "checkout", number, card={}) for number in range(3)]
        assert shares(picker, cards).keys() == {0, 1, 2}
        assert shares(picker, tuple(cards)).keys() == {0, 1, 2}

    def test_it_follows_another_sequence(self, picker: Balance) -> None:
        three = endpoints(3)
        for instances in (three, three[1:], three, (*three[:2], endpoint(9))):
            assert shares(picker, instances).keys() == {one.instance_id for one in instances}

    def test_work_in_flight_may_be_told_in_any_order(self, picker: Balance) -> None:
        two = endpoints(2)
        picker.finished(two[0].id)
        picker.started(two[1].id)
        picker.finished(two[1].id)
        assert shares(picker, two).keys() == {0, 1}


@pytest.mark.parametrize("make", [RoundRobin, Random, LeastOutstanding])
def test_a_list_may_change_in_place(make: Callable[[], Balance]) -> None:
    assert_follows_in_place(make().pick)


@pytest.mark.parametrize("make", [Weighted, lambda: PreferZone("a")])
def test_a_list_may_change_in_place_with_what_is_remembered(make: Callable[[], Balance]) -> None:
    assert_follows_in_place(make().pick)


def test_a_list_may_change_in_place_for_keys() -> None:
    picker, keys = Rendezvous(), iter(range(2**62))
    assert_follows_in_place(lambda instances: picker.pick(instances, str(next(keys))))


def assert_follows_in_place(pick: Callable[[list[Instance]], Instance]) -> None:
    def picked() -> set[int]:
        return {pick(instances).instance_id for _ in range(200)}

    instances: list[Instance] = [endpoint(1, zone="a"), endpoint(2, zone="a")]
    assert picked() == {1, 2}
    instances.append(endpoint(3, zone="a"))
    assert picked() == {1, 2, 3}
    instances[0] = endpoint(4, zone="a")
    assert picked() == {2, 3, 4}
    del instances[:2]
    assert picked() == {3}
    instances.clear()
    with pytest.raises(NoInstanceError):
        pick(instances)


class TestRoundRobin:
    def test_one_after_the_other(self) -> None:
        picker, three = RoundRobin(), endpoints(3)
        picked = [picker.pick(three) for _ in range(7)]
        at = three.index(picked[0])
        assert picked == [*three[at:], *three[:at]] * 2 + [three[at]]

    def test_a_changed_sequence_does_not_begin_anew(self) -> None:
        picker, four = RoundRobin(), endpoints(4)
        first = four.index(picker.pick(four))
        assert picker.pick(four) == four[(first + 1) % 4]
        ever = {picker.pick((*four, endpoint(4))) for _ in range(5)}
        assert ever == {*four, endpoint(4)}

    @given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    def test_whatever_the_sizes_were_before_everybody_is_visited_equally(self, sizes: list[int]) -> None:
        picker = RoundRobin()
        for size in sizes:
            instances = endpoints(size)
            visits = Counter(picker.pick(instances) for _ in range(3 * size))
            assert visits == dict.fromkeys(instances, 3)

    def test_it_begins_anywhere(self) -> None:
        """A fleet of new clients must not begin at the same instance."""
        ten = endpoints(10)
        assert {RoundRobin().pick(ten) for _ in range(400)} == set(ten)
        shared = RoundRobin()
        firsts = {for_view(shared).pick(ten) for _ in range(400)}
        assert firsts == set(ten)

    def test_the_source_decides_where(self) -> None:
        ten = endpoints(10)
        one, other = (RoundRobin(random.Random(7)) for _ in range(2))
        assert [one.pick(ten) for _ in range(12)] == [other.pick(ten) for _ in range(12)]

    def test_two_pickers_take_turns_of_their_own(self) -> None:
        two, shared = endpoints(2), RoundRobin()
        one, other = for_view(shared), for_view(shared)
        picked = [(one.pick(two), other.pick(two)) for _ in range(2)]
        assert {first for first, _ in picked} == {second for _, second in picked} == set(two)


class TestRandom:
    def test_the_source_decides(self) -> None:
        ten = endpoints(10)
        first, second, other = (Random(random.Random(seed)) for seed in (7, 7, 8))
        order = [first.pick(ten) for _ in range(50)]
        assert order == [second.pick(ten) for _ in range(50)]
        assert order != [other.pick(ten) for _ in range(50)]

    def test_by_default_processes_differ(self) -> None:
        ten = endpoints(10)
        one, two = Random(), Random()
        assert [one.pick(ten) for _ in range(50)] != [two.pick(ten) for _ in range(50)]


class TestLeastOutstanding:
    def test_of_two_always_the_idle_one(self) -> None:
        picker, two = LeastOutstanding(random.Random(1)), endpoints(2)
        picker.started(two[0].id)
        assert shares(picker, two) == {1: 1.0}

    def test_of_two_always_the_one_with_less(self) -> None:
        picker, two = LeastOutstanding(random.Random(1)), endpoints(2)
        for id in (two[0].id, two[1].id, two[1].id):
            picker.started(id)
        assert shares(picker, two) == {0: 1.0}

    def test_the_second_choice_is_as_fair_as_the_first(self) -> None:
        picker, five = LeastOutstanding(random.Random(1)), endpoints(5)
        picker.started(endpoint(9).id)  # so that a second choice is made at all
        assert shares(picker, five) == pytest.approx(dict.fromkeys(range(5), 0.2), abs=0.02)
        picker.started(five[2].id)
        assert shares(picker, five) == pytest.approx({0: 0.25, 1: 0.25, 3: 0.25, 4: 0.25}, abs=0.02)

    def test_a_slow_one_of_many_gets_less(self) -> None:
        picker, ten = LeastOutstanding(random.Random(1)), endpoints(10)
        for _ in range(5):
            picker.started(ten[3].id)
        assert shares(picker, ten).keys() == set(range(10)) - {3}  # whoever is drawn with it has less

    def test_load_spreads_evenly_when_nothing_finishes(self) -> None:
        picker, twenty = LeastOutstanding(random.Random(1)), endpoints(20)
        load: Counter[int] = Counter()
        for _ in range(2000):
            picked = picker.pick(twenty)
            picker.started(picked.id)
            load[picked.instance_id] += 1
        assert max(load.values()) - min(load.values()) <= 8  # by chance alone it would be about 40

    def test_the_bookkeeping_leaves_nothing_behind(self) -> None:
        picker, five = LeastOutstanding(random.Random(1)), endpoints(5)
        for instance in (*five, *five):
            picker.started(instance.id)
        for instance in (*five, *five, five[0]):  # one more than began
            picker.pick(five)
            picker.finished(instance.id)
        assert not picker._outstanding

    def test_one_that_is_gone_is_forgotten_with_its_last_work(self) -> None:
        picker, two = LeastOutstanding(random.Random(1)), endpoints(2)
        picker.started(two[0].id)
        assert picker.pick(two[1:]) == two[1]
        picker.finished(two[0].id)
        assert not picker._outstanding


class TestWeighted:
    def test_shares_are_weights(self) -> None:
        instances = [endpoint(1, weight=1), endpoint(2, weight=2.5), endpoint(3), endpoint(4, weight=0.5)]
        expected = {1: 0.2, 2: 0.5, 3: 0.2, 4: 0.1}
        assert shares(Weighted(random.Random(1)), instances) == pytest.approx(expected, abs=0.02)

    @given(
        st.lists(st.sampled_from([0, 0, 1, 0.001, 1e9]), min_size=1, max_size=6).filter(any),
        st.integers(0, 100),
    )
    def test_a_weight_of_0_is_never_picked_while_there_are_others(
        self, weights: list[float], seed: int
    ) -> None:
        instances = [endpoint(number, weight=weight) for number, weight in enumerate(weights)]
        for number in shares(Weighted(random.Random(seed)), instances, 50):
            assert weights[number] > 0

    @pytest.mark.parametrize("chance", [0.0, math.nextafter(1.0, 0.0)])
    @pytest.mark.parametrize("weights", [(0, 1, 0), (0, 0.1, 0), (0, 3, 0), (0, 1e-300, 0), (0, 1e300, 0)])
    def test_neither_at_the_ends(self, chance: float, weights: tuple[float, ...]) -> None:
        source = random.Random()
        source.random = lambda: chance  # type: ignore[method-assign]
        instances = [endpoint(number, weight=weight) for number, weight in enumerate(weights)]
        assert Weighted(source).pick(instances).instance_id == 1

    def test_all_0_is_no_preference(self) -> None:
        instances = [endpoint(number, weight=0) for number in range(4)]
        expected = dict.fromkeys(range(4), 0.25)
        assert shares(Weighted(random.Random(1)), instances) == pytest.approx(expected, abs=0.02)

    @pytest.mark.parametrize("nonsense", [-1, "2", "", None, [], {"a": 1}, math.nan, -math.inf])
    def test_nonsense_is_1(self, nonsense: object) -> None:
        assert weight_of(endpoint(1, weight=nonsense)) == 1.0
        instances = [endpoint(1, weight=nonsense), endpoint(2, weight=1)]
        assert shares(Weighted(random.Random(1)), instances) == pytest.approx({1: 0.5, 2: 0.5}, abs=0.02)

    @pytest.mark.parametrize("huge", [1e308, math.inf, pytest.param(10**400, id="10**400")])
    def test_weights_without_a_sum_break_nothing(self, huge: float) -> None:
        instances = [endpoint(1, weight=huge), endpoint(2, weight=huge), endpoint(3)]
        assert shares(Weighted(random.Random(1)), instances, 100).keys() <= {1, 2, 3}

    @pytest.mark.parametrize("tiny", [5e-324, 1e-310])
    def test_weights_too_small_to_multiply_break_nothing(self, tiny: float) -> None:
        instances = [endpoint(1, weight=tiny), endpoint(2, weight=tiny)]
        assert shares(Weighted(random.Random(1)), instances, 100).keys() == {1, 2}

    def test_a_model_card_has_no_weight(self) -> None:
        assert weight_of(ModelInstance("a", "b", "c", 1, card={"weight": 5})) == 1.0


def placed(numbers: Sequence[int]) -> tuple[EndpointInstance, ...]:
    return tuple(endpoint(number) for number in sorted(numbers))


GOLDEN = [4, 16, 5, 9, 15, 10, 8, 0, 8, 9]
KEYS = [f"user-{number}" for number in range(5000)]
IN_ANOTHER_PROCESS = """
import json, sys
from natsdisc import EndpointInstance, Transport
from natsdisc.balance import Rendezvous
at = Transport.nats("s")
instances = [EndpointInstance("shop", "cart", "checkout", n, transport=at) for n in range(20)]
print(json.dumps([Rendezvous().pick(instances, key).instance_id for key in json.load(sys.stdin)]))
"""


class TestRendezvous:
    def test_nobody_to_pick(self) -> None:
        picker = Rendezvous()
        with pytest.raises(NoInstanceError):
            picker.pick((), "key")
        picker.pick(endpoints(2), "key")
        with pytest.raises(NoInstanceError):
            picker.pick((), "key")

    def test_text_and_its_bytes_are_one_key(self) -> None:
        ten = endpoints(10)
        assert all(Rendezvous().pick(ten, key) == Rendezvous().pick(ten, key.encode()) for key in KEYS[:200])

    def test_any_text_is_a_key(self) -> None:
        for key in ("", "\0", "ü" * 1000, "\ud800"):
            assert Rendezvous().pick(endpoints(10), key) in endpoints(10)

    def test_neither_transport_nor_metadata_matter(self) -> None:
        before = endpoints(10)
        after = tuple(
            EndpointInstance(
                "shop", "cart", "checkout", n, transport=Transport.tcp("b"), metadata={"weight": n}
            )
            for n in range(10)
        )
        picker = Rendezvous()
        assert [picker.pick(before, key).id for key in KEYS] == [picker.pick(after, key).id for key in KEYS]

    def test_every_part_of_the_id_matters(self) -> None:
        def there(namespace: str, component: str, name: str, first: int) -> list[int]:
            instances = [
                EndpointInstance(namespace, component, name, first + n, transport=Transport.nats("s"))
                for n in range(10)
            ]
            picker = Rendezvous()
            return [picker.pick(instances, key).instance_id - first for key in KEYS]

        places = [
            ("a", "b", "c", 0),
            ("x", "b", "c", 0),
            ("a", "x", "c", 0),
            ("a", "b", "x", 0),
            ("a", "b", "c", 99),
        ]
        assert len({tuple(there(*place)) for place in places}) == len(places)

    @pytest.mark.parametrize("hash_seed", ["0", "4711"])
    def test_the_same_in_another_process(self, hash_seed: str) -> None:
        twenty, picker = endpoints(20), Rendezvous()
        done = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            input=json.dumps(KEYS[:500]),
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        )
        assert json.loads(done.stdout) == [picker.pick(twenty, key).instance_id for key in KEYS[:500]]

    def test_the_same_in_another_release(self) -> None:
        picker = Rendezvous()
        # Written down: a change of these moves everybody's keys while a fleet is half updated.
        assert [picker.pick(endpoints(20), key).instance_id for key in KEYS[:10]] == GOLDEN

    @given(
        numbers=st.sets(st.integers(0, 2**64 - 1), min_size=2, max_size=40),
        which=st.integers(0, 39),
        prefix=st.text(max_size=5),
    )
    def test_one_more_or_less_moves_only_its_own_keys(
        self, numbers: set[int], which: int, prefix: str
    ) -> None:
        changing = sorted(numbers)[which % len(numbers)]
        all_of_them, rest = placed(list(numbers)), placed(list(numbers - {changing}))
        with_it, without = Rendezvous(), Rendezvous()
        moved = 0
        keys = [prefix + key for key in KEYS[:1000]]
        for key in keys:
            before, after = with_it.pick(all_of_them, key), without.pick(rest, key)
            if before != after:
                assert before.instance_id == changing
                moved += 1
        share = 1 / len(numbers)
        # Six standard deviations of a fair draw: a sound hash leaves this once in a billion examples.
        assert abs(moved / len(keys) - share) < 6 * math.sqrt(share * (1 - share) / len(keys))

    def test_the_keys_of_a_leaver_spread_over_all_others(self) -> None:
        ten, picker = endpoints(10), Rendezvous()
        leaving = [key for key in KEYS if picker.pick(ten, key) == ten[0]]
        assert 400 < len(leaving) < 600
        heirs = Counter(Rendezvous().pick(ten[1:], key) for key in leaving)
        assert len(heirs) == 9
        expected = len(leaving) / 9
        assert max(heirs.values()) < 1.6 * expected
        assert min(heirs.values()) > 0.5 * expected

    @pytest.mark.parametrize("count", [2, 3, 10, 50])
    @pytest.mark.parametrize("stride", [1, 2**32, 7919])
    def test_shares_are_about_equal(self, count: int, stride: int) -> None:
        instances, picker = placed([number * stride for number in range(count)]), Rendezvous()
        counted = Counter(picker.pick(instances, key) for key in KEYS)
        share = len(KEYS) / count
        deviation = math.sqrt(share * (1 - 1 / count))
        assert len(counted) == count
        assert max(counted.values()) < share + 4.5 * deviation
        assert min(counted.values()) > share - 4.5 * deviation


class TestPreferZone:
    def test_only_the_zone_while_somebody_is_there(self) -> None:
        near, far = endpoint(1, zone="a"), endpoint(2, zone="b")
        assert shares(PreferZone("a"), (near, far, endpoint(3), endpoint(4, zone="a"))) == {1: 0.5, 4: 0.5}
        assert shares(PreferZone("b"), (near, far)) == {2: 1.0}

    def test_an_empty_zone_spills_over(self) -> None:
        near, others = endpoint(1, zone="a"), (endpoint(2, zone="b"), endpoint(3))
        picker = PreferZone("a")
        assert picker.pick((near, *others)) == near
        assert shares(picker, others) == {2: 0.5, 3: 0.5}
        assert picker.pick((near, *others)) == near

    def test_another_picker_inside(self) -> None:
        picker = PreferZone("a", Weighted(random.Random(1)))
        zone = (endpoint(1, zone="a", weight=3), endpoint(2, zone="a"), endpoint(3, zone="b", weight=100))
        assert shares(picker, zone) == pytest.approx({1: 0.75, 2: 0.25}, abs=0.02)

    def test_it_tells_the_one_inside_of_work_in_flight(self) -> None:
        inside = LeastOutstanding(random.Random(1))
        picker = PreferZone("a", inside)
        busy, idle = zone = (endpoint(1, zone="a"), endpoint(2, zone="a"))
        picker.started(busy.id)
        assert shares(picker, zone) == {idle.instance_id: 1.0}
        picker.finished(busy.id)
        assert not inside._outstanding


@pytest.mark.parametrize(
    ("metadata", "zone"), [({}, None), ({"zone": "a", "draining": True}, "a"), ({"zone": 3}, 3)]
)
def test_the_zone_is_in_the_metadata_of_endpoints(metadata: dict[str, Any], zone: object) -> None:
    assert zone_of(endpoint(1, **metadata)) == zone
    assert zone_of(ModelInstance("a", "b", "c", 1, card=metadata)) is None


def test_draining_is_a_status_and_no_metadata() -> None:
    one = endpoint(1, draining=True)
    draining = [status for status in Status if is_draining(dataclasses.replace(one, status=status))]
    assert draining == [Status.DRAINING]
    assert not is_draining(ModelInstance("a", "b", "c", 1, card={"status": "draining"}))
