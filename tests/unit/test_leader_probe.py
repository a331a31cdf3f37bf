"""When a stream's leader counts as reaching the node that a watch is read from."""

from __future__ import annotations

from typing import Any

import pytest

from natsdisc.store.jetstream.leader_probe import reaches

SECOND = 1_000_000_000


def cluster(leader: str | None, **active: float) -> dict[str, Any]:
    """The `cluster` of a stream's info, with the seconds since each replica was heard."""
    replicas = [
        {"name": name, "current": True, "active": int(seconds * SECOND)} for name, seconds in active.items()
    ]
    told: dict[str, Any] = {"name": "rig"}
    if leader is not None:
        told["leader"] = leader
    if replicas:
        told["replicas"] = replicas
    return told


@pytest.mark.parametrize(
    ("told", "node", "reached"),
    [
        pytest.param(cluster("a", b=0.2, c=1.1), "a", True, id="the leader itself"),
        pytest.param(cluster("a", b=0.2, c=1.1), "b", True, id="a follower"),
        pytest.param(cluster("a", b=0.2, c=42.0), "b", True, id="another one is away"),
        pytest.param(cluster("a", b=0.2, c=42.0), "c", False, id="cut off"),
        pytest.param(cluster("a", b=0.2, c=0.0), "c", False, id="never heard by this leader"),
        pytest.param(cluster("a", b=14.5, c=14.5), "a", False, id="a leader that has lost the others"),
        pytest.param(cluster(None, a=2.0, b=0.0, c=0.0), "a", False, id="no leader"),
        pytest.param(cluster("a", b=0.2, c=0.2), "d", False, id="no replica any more"),
        pytest.param(cluster("a"), "a", True, id="one replica"),
        pytest.param(cluster("a"), "b", False, id="one replica that has moved"),
        pytest.param({}, "a", False, id="no answer"),
        pytest.param(cluster("a", b=0.2, c=9, d=9), "a", False, id="half is no majority"),
        pytest.param(cluster("a", b=0.2, c=0.2, d=9, e=9), "a", True, id="three of five"),
    ],
)
def test_reaches(told: dict[str, Any], node: str, reached: bool) -> None:
    assert reaches(told, node) is reached
