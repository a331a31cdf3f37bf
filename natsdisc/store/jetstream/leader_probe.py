"""Whether the replica that a watch is read from still hears of what happens to the stream.

The consumer of a watch lives on one node. When that is cut off from the others it goes on to say that it has
nothing to say, and answers what it is asked; so the stream's leader is asked, whether it reaches that node.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from ...errors import PermissionDeniedError, StoreUnavailableError
from .api import ApiError
from .stream import Stream

__all__ = ["LeaderProbe", "reaches"]

# How often the leader is asked; all watches of a stream in one process share the answers.
_ASK_EVERY = 3.0
_ANSWER_SHARED = 1.0
_ANSWER_TIMEOUT = 2.0
# A leader speaks to its followers every second. One that was not answered for so long has lost them.
_CONTACT = 3.0
# An election takes 4 to 9 s: who reads from a node that is well need not be called stale meanwhile.
_ELECTION = 9.0
# A node that was away catches up, and what it delivers meanwhile may lack something without a gap (seen once,
# after a partition of three nodes). So everything is read again when the cluster has been calm for so long.
_CALM = 5.0


class LeaderProbe:
    """The node on which a consumer reads, by its name in the cluster; None when there is no cluster."""

    def __init__(self, stream: Stream, node: str | None, *, troubled: bool = False) -> None:
        self._stream = stream
        self._node = node
        self._leader: tuple[object, object] | None = None
        self.look_again_at = float("inf")
        # When the leader was last known to reach it, and when it is to be asked next (by the loop's clock).
        self.confirmed, self.ask_at = _now(), 0.0
        self.is_reached = False
        self._check_askable()
        if node is not None and troubled:
            self._wait_for_calm()

    @property
    def leader(self) -> str | None:
        """The name of the stream's leader, if it is known."""
        return str(self._leader[0]) if self._leader is not None and self._leader[0] else None

    @property
    def is_cut_off(self) -> bool:
        """Whether the leader has not reached it for longer than an election takes."""
        return _now() - self.confirmed > _ELECTION

    async def ask(self, timeout: float = _ANSWER_TIMEOUT) -> None:
        """Ask the stream's leader, if there is more than one node and this user may ask; wait `timeout` s."""
        if not self._check_askable():
            return
        try:
            cluster = await self._stream.cluster(_ANSWER_SHARED, timeout)
        except PermissionDeniedError:
            # This user may not ask; the server reports every refusal, so the next question waits.
            self._stream.deny_info()
            self._check_askable()
            return
        except (StoreUnavailableError, ApiError):
            cluster = {}
        self.is_reached = reaches(cluster, self._node or "")
        leader = cluster.get("leader"), cluster.get("leader_since")
        if not self.is_reached or self._leader not in (None, leader):
            self._wait_for_calm()
        if self.is_reached:
            self.confirmed, self._leader = _now(), leader
        self.ask_at = _now() + _ASK_EVERY * random.uniform(0.8, 1.2)  # noqa: S311 (spreads load)

    def _wait_for_calm(self) -> None:
        self.look_again_at = _now() + _CALM * random.uniform(1, 2)  # noqa: S311 (spreads load)

    def _check_askable(self) -> bool:
        if self._node is not None and not self._stream.info_denied:
            if self.confirmed == float("inf"):
                self.confirmed = _now()  # the right to ask has come back
            return True
        self.is_reached, self.confirmed = True, float("inf")
        # The right may be given later.
        self.ask_at = float("inf") if self._node is None else _now() + _ASK_EVERY
        return False


def reaches(cluster: Mapping[str, Any], node: str) -> bool:
    """Whether a stream's leader has a majority, and `node` in it, by the `cluster` of the stream's info."""
    leader, replicas = cluster.get("leader"), cluster.get("replicas") or ()
    # One that this leader never heard is active since 0 ns.
    with_it = {replica["name"] for replica in replicas if 0 < replica["active"] < _CONTACT * 1e9}
    return bool(leader) and node in {leader, *with_it} and 2 * (1 + len(with_it)) > 1 + len(replicas)


def _now() -> float:
    return asyncio.get_running_loop().time()
