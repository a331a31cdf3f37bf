"""The end of a Discovery, step by step: nothing raises, and nothing waits without bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from . import log
from .errors import ClosedError
from .lease import State
from .model import EndpointInstance, Instance, Status
from .registrar import Registrar
from .store import Store
from .tasks import Tasks, bounded
from .updates import status_of, with_status

__all__ = ["Closing"]

_log = log.logger(__name__)

# A server that is away must not keep a process from ending. All steps of a close share these seconds: calls
# that have begun are ended, watches are closed, registrations end, and the connection is closed, for which
# some time is set aside.
_CLOSE_TIMEOUT_S = 1.65
_ENDING_TASKS_S, _CLOSING_WATCHES_S, _UNREGISTERING_S, _DETACHING_S = 0.5, 0.3, 0.25, 0.5
# A server that answers ends this many registrations a second at least, whatever else it does.
_UNREGISTERED_PER_SECOND = 500
# Seconds in which the marks of a drain are written. A server that is there needs milliseconds.
_MARKING_TIMEOUT_S = 1.0


class Closing:
    """The steps of closing one Discovery."""

    def __init__(self, store: Store, registrar: Registrar, tasks: Tasks) -> None:
        self._store = store
        self._registrar = registrar
        self._tasks = tasks

    async def drain(self, seconds: float) -> None:
        """Mark our endpoints and wait until `seconds` are over; not at all when none could be marked."""
        time = asyncio.get_running_loop().time
        end = time() + seconds
        marking = {
            self._tasks.start(self._registrar.change(one.instance, _drained)): one.id
            for one in self._registrar.registrations
            if one.state is State.ACTIVE and isinstance(one.instance, EndpointInstance)
        }
        if not marking:
            return
        patience = min(seconds, _MARKING_TIMEOUT_S + len(marking) / _UNREGISTERED_PER_SECOND)
        done, _ = await asyncio.wait(marking, timeout=patience)
        marked = 0
        for task, id in marking.items():
            error: BaseException | str | None = f"no answer within {patience:g} s"
            if task in done:
                error = ClosedError("cancelled") if task.cancelled() else task.exception()
            else:
                task.cancel()
            if error is None:
                marked += 1
                continue
            _log.warning(
                "%s could not be marked as draining: %s",
                id,
                error,
                extra=log.fields("not_drained", id=id, error=error),
            )
        if marked:
            await asyncio.sleep(end - time())

    async def run(
        self, close_watches: Sequence[Callable[[], Coroutine[Any, Any, None]]], *, keep: bool
    ) -> None:
        """Go through all steps, which share one deadline. With `keep`, nothing is unregistered."""
        time = asyncio.get_running_loop().time
        deadline = time() + _CLOSE_TIMEOUT_S
        # Calls that have begun are ended first, so that it is known what is there.
        await self._tasks.end(_ENDING_TASKS_S)
        if close_watches:
            closing = asyncio.gather(*(close() for close in close_watches), return_exceptions=True)
            limit = _CLOSING_WATCHES_S + len(close_watches) / 1000
            await bounded("closing the watches", _outcome(closing), limit)
        # The registrar gives up by itself when nothing gets done any more.
        patience = max(deadline - time() - _DETACHING_S, _UNREGISTERING_S)
        count = len(self._registrar.registrations)
        await bounded(
            f"{'leaving' if keep else 'unregistering'} {count} instances",
            self._registrar.close(patience, keep=keep),
            patience + count / _UNREGISTERED_PER_SECOND + 0.1,
        )
        await bounded("closing the connection", self._store.detach(), max(deadline - time(), _DETACHING_S))


def _drained(instance: Instance) -> Instance:
    # One that is disabled is out of rotation already, and more so.
    return instance if status_of(instance) is Status.DISABLED else with_status(instance, Status.DRAINING)


async def _outcome(work: asyncio.Future[Any]) -> None:
    """Wait for a future, and raise the first error among its results."""
    for outcome in await work:
        if isinstance(outcome, Exception):
            raise outcome
