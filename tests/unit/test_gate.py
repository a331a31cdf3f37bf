"""Large snapshots of a connection are read one after the other."""

from __future__ import annotations

from natsdisc.store.jetstream.gate import SnapshotGate


class Snapshot:
    """One that asks for more."""

    heard = 0.0


async def test_one_at_a_time_in_the_order_of_asking() -> None:
    gate, answered = SnapshotGate(), []
    first, second, third = Snapshot(), Snapshot(), Snapshot()
    for name, who in (("first", first), ("second", second), ("third", third), ("first again", first)):
        gate.request(who, lambda name=name: answered.append(name))  # type: ignore[misc]
    assert answered == ["first", "first again"]
    assert gate.busy
    gate.request(second, lambda: answered.append("second, as it asked last"))
    gate.leave(first)
    assert answered[2:] == ["second, as it asked last"]
    gate.leave(third)  # given up while it waited
    gate.leave(second)
    gate.leave(second)
    assert len(answered) == 3
    assert not gate.busy
