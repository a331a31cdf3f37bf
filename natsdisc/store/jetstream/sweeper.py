"""When the dead entries of a bucket are looked for, and by which of the processes that could.

Rules
1. A start, a reconnect, a new leader and a wrong copy are reasons to sweep soon, and again some seconds
   later: a lease that ends only then does not fire either.
2. Otherwise a sweep is made once in a while. In a cluster with file storage that is more often, because a
   node that comes back with a wrong copy tells nobody.
3. One process sweeps for all: it leaves a mark in the bucket, and the others see that it is young.
4. A process sweeps everything. If its permissions do not allow that, it voids its mark, so that another
   process comes, and sweeps the places of its own instances.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from ... import log
from ...errors import DiscoveryError, PermissionDeniedError
from .. import Holder
from .api import JetStreamApi
from .copies import differences
from .ghosts import Ghosts
from .marks import Marks
from .stream import Stream
from .stream_messages import StoredMessage

__all__ = ["Sweeper"]

_log = log.logger(__name__)

# Seconds after a reason to sweep, each with a random delay so that a fleet does not come at once. The first
# one lends leases to values that have none, which harms no living owner.
_ROUNDS_S, _SPREAD_S = (0.6, 3.1, 4.2, 6.0, 9.0, 14.0), 0.5
# Reasons so close together (seconds) are one: a reconnect, and the new leader that is seen then.
_ONE_REASON_S = 1.0
# Only so long after a reason are overdue leases taken for dead. A server that starts fires what is overdue
# within a second; of a large fleet some owners take longer to renew.
_OWNERS_RETURN_S = 3.0
_SPREAD_PER_PROCESS_S, _LONGEST_SPREAD_S = 0.002, 2.0
# Seconds between two sweeps without a reason, for the whole fleet.
_PERIOD_IN_FILES_S, _PERIOD_IN_COPIES_S, _PERIOD_IN_MEMORY_S = 45.0, 10.0, 300.0
# Up to this many processes look at the mark as often as that; of more, each looks the more rarely.
_FLEET = 20
# But a dead entry is to be gone within a minute, whatever the number of processes is taken for.
_LONGEST_PAUSE_S = 45.0
# Values without a lease are looked for with every sweep that has a reason, else with one in this many.
_THOROUGH_EVERY = 5
# A leader that had dead entries has only living ones after this.
_LEADER_SETTLES_S = 15.0
# How often a close cancels the task, and how long (seconds) it waits each time.
_MOST_CANCELS, _CANCEL_S = 5, 0.1
_RESTART_AFTER_S = 0.5


@dataclass(order=True, slots=True)
class _Round:
    """A sweep that is due; a mark that is younger than `since` makes it unnecessary (`time.monotonic`)."""

    due: float
    since: float
    has_reason: bool
    removes: bool = True


class Sweeper:
    """The sweeps of one bucket by this process."""

    def __init__(self, api: JetStreamApi, stream: Stream, tombstone_ttl: str) -> None:
        self._api = api
        self._stream = stream
        self._ghosts = Ghosts(api, stream, tombstone_ttl)
        self._marks = Marks(api, stream)
        self._holders: dict[int, tuple[str, Holder]] = {}
        self._next_holder = 0
        self._rounds: list[_Round] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_confined = False
        self._count = 0
        self._removed_at = float("-inf")
        self._reason_at = float("-inf")
        self._server_id = api.requester.server_id
        self._is_after_restart = False

    def add(self, prefix: str, holder: Holder) -> Callable[[], None]:
        """Sweep below the tokens of `prefix` from now on; return a function that ends that."""
        number, self._next_holder = self._next_holder, self._next_holder + 1
        is_new = prefix not in {known for known, _ in self._holders.values()}
        self._holders[number] = (prefix, holder)
        if self._task is None:
            self._start()
        if is_new:
            self.sweep_soon()

        def end() -> None:
            self._holders.pop(number, None)

        return end

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"natsdisc-sweeper {self._stream.bucket}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Start the task again, unless it was closed: only somebody else's cancellation ends it."""
        if task is not self._task:
            return
        _log.error(
            "the task that sweeps the bucket %s ended; it is started again",
            self._stream.bucket,
            extra=log.fields("task_ended", task=task.get_name()),
        )
        # Not at once: a loop that is about to close cancels every task, and runs no timer any more.
        task.get_loop().call_later(_RESTART_AFTER_S, self._restart, task)

    def _restart(self, ended: asyncio.Task[None]) -> None:
        if self._task is ended:
            self._start()

    def sweep_soon(self) -> None:
        """Sweep because something happened that may have brought back what is dead."""
        now, server_id = time.monotonic(), self._api.requester.server_id
        is_other_server = server_id != self._server_id
        is_new = is_other_server or now - self._reason_at >= _ONE_REASON_S
        if self._task is None or not is_new:
            return
        self._is_after_restart = bool(self._server_id) and is_other_server
        self._reason_at, self._server_id = now, server_id
        self._rounds = [one for one in self._rounds if not one.has_reason]
        for after in _ROUNDS_S:
            due = now + after + random.uniform(0, _SPREAD_S) + self._spread()  # noqa: S311 (spreads load)
            self._rounds.append(_Round(due, now + after, True, after >= _OWNERS_RETURN_S))
        heapq.heapify(self._rounds)
        self._is_confined = False  # permissions may have changed
        self._wake.set()

    async def aclose(self) -> None:
        """End the sweeps."""
        task, self._task = self._task, None
        for _ in range(_MOST_CANCELS):
            if task is None or task.done():
                break
            # A flush of nats-py that never comes to its end may swallow a cancellation.
            task.cancel()
            await asyncio.wait((task,), timeout=_CANCEL_S)

    def _spread(self) -> float:
        longest = min(self._processes() * _SPREAD_PER_PROCESS_S, _LONGEST_SPREAD_S)
        return random.uniform(0, longest)  # noqa: S311 (spreads load)

    async def _run(self) -> None:
        while True:
            await self._wait()
            due = heapq.heappop(self._rounds)
            try:
                await self._sweep(due)
            except DiscoveryError as error:
                _log.debug(
                    "could not sweep the bucket %s: %s",
                    self._stream.bucket,
                    error,
                    extra=log.fields("not_swept", bucket=self._stream.bucket, error=error),
                )
            except Exception:
                _log.exception(
                    "sweeping the bucket %s failed; the next sweep tries again",
                    self._stream.bucket,
                    extra=log.fields("not_swept", bucket=self._stream.bucket),
                )

    async def _wait(self) -> None:
        """Wait until a round is due."""
        while True:
            now = time.monotonic()
            if not any(not one.has_reason for one in self._rounds):
                period = self._period()
                pause = period * random.uniform(0.5, 1.5) * max(1.0, self._processes() / _FLEET)  # noqa: S311
                pause = min(pause, max(period, _LONGEST_PAUSE_S))
                heapq.heappush(self._rounds, _Round(now + pause, now + pause - period / 2, False))
            self._wake.clear()
            if self._rounds[0].due <= now and self._holders:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rounds[0].due - now if self._holders else None):
                    await self._wake.wait()

    def _period(self) -> float:
        if self._stream.storage == "memory":
            return _PERIOD_IN_MEMORY_S
        return _PERIOD_IN_COPIES_S if self._stream.is_replicated else _PERIOD_IN_FILES_S

    def _processes(self) -> float:
        """Return about how many processes sweep this bucket, if each holds as much as this one."""
        held = sum(len(holder.held()) for holder in self._all_holders())
        return self._stream.messages / (2 * max(1, held))

    async def _sweep(self, due: _Round) -> None:
        is_known = self._stream.known and self._stream.clock.age < math.inf
        if not is_known and not await self._stream.look():
            return
        if not self._stream.leases:
            return
        if due.has_reason and self._stream.storage == "memory" and self._count:
            return  # nothing comes back there
        self._count += 1
        if not self._is_confined:
            try:
                if await self._marks.claim("", since=due.since, removes=due.removes):
                    await self._sweep_below("", due)
                return
            except PermissionDeniedError:
                # Until the next reason: the server and the user's callbacks hear of each refusal.
                self._is_confined = True
                await self._marks.void("")
        for prefix in sorted({prefix for prefix, _ in self._holders.values()}):
            if await self._marks.claim(prefix, since=due.since, removes=due.removes):
                await self._sweep_below(prefix, due)

    async def _sweep_below(self, prefix: str, due: _Round) -> None:
        if not await self._stream.look():  # for the leader's time
            return
        # After a reason, only leases from before it can be dead: living owners have renewed theirs since.
        reason_at = self._stream.clock.read() - timedelta(seconds=time.monotonic() - self._reason_at)
        before = reason_at if due.has_reason else None
        overdue = await self._ghosts.overdue(prefix, before) if due.removes else []
        removed = await self._ghosts.remove_overdue(self._not_held(overdue))
        if removed:
            _log.warning(
                "removed %d entries of %s that a server brought back: their leases ended long ago",
                removed,
                self._name(prefix),
                extra=log.fields("swept", bucket=self._stream.bucket, prefix=prefix, count=removed),
            )
        given = 0
        if due.has_reason or self._count % _THOROUGH_EVERY == 0:
            orphans = await self._ghosts.without_lease(prefix)
            is_short = due.has_reason and self._is_after_restart and self._stream.has_one_server
            given = await self._ghosts.lend_leases(self._not_held(orphans), after_restart=is_short)
        if given:
            _log.warning(
                "%d entries of %s had no lease any more; without an owner they end within seconds",
                given,
                self._name(prefix),
                extra=log.fields("leases_given", bucket=self._stream.bucket, prefix=prefix, count=given),
            )
        if removed or given:
            self._removed_at = time.monotonic()
            self._tell(lambda holder: holder.note_swept(removed + given))
        if self._stream.is_replicated:
            await self._compare_copies(prefix)

    async def _compare_copies(self, prefix: str) -> None:
        # A leader that was wrong itself a moment ago has more than the others, for a while.
        was_wrong = time.monotonic() - self._removed_at < _LEADER_SETTLES_S
        for difference in await differences(self._api, self._stream, prefix):
            if was_wrong and not difference.extra:
                continue
            self._tell(lambda holder: holder.note_wrong_copy())
            removed = await self._ghosts.remove_from_copies(difference.extra)
            self._stream.reports.copy_mended(
                difference.node, len(difference.extra), removed, len(difference.missing)
            )

    def _tell(self, what: Callable[[Holder], None]) -> None:
        """Call `what` with each holder."""
        for holder in self._all_holders():
            what(holder)

    def _all_holders(self) -> list[Holder]:
        """Return each holder once, however many prefixes it has."""
        return list({id(holder): holder for _, holder in self._holders.values()}.values())

    def _not_held(self, messages: Iterable[StoredMessage]) -> list[StoredMessage]:
        """Return the messages whose keys no user of this process holds."""
        messages = list(messages)
        held: set[str] = set()
        for holder in self._all_holders() if messages else ():
            held |= holder.held()
        return [one for one in messages if self._key(one) not in held]

    def _key(self, message: StoredMessage) -> str:
        for prefix in (self._stream.lease_prefix, self._stream.subject_prefix):
            if message.subject.startswith(prefix):
                return message.subject[len(prefix) :]
        return message.subject

    def _name(self, prefix: str) -> str:
        return f"{prefix} in {self._stream.bucket}" if prefix else f"the bucket {self._stream.bucket}"
