"""One policy for requests that fail: which errors can pass by themselves, and how long to wait then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from ...errors import DiscoveryError, StoreUnavailableError
from .pending import REQUEST_TIMEOUT

__all__ = [
    "PASSING_CODES",
    "TRY_TIMEOUT_S",
    "Backoff",
    "Pace",
    "code_can_pass",
    "delays",
    "first_answer",
    "is_transient",
    "patience_s",
    "understood",
]

_T = TypeVar("_T")

# Seconds between two looks at what was asked.
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.05, 1.0
# A reply to one attempt that takes longer than this is not waited for: without a leader a server drops a
# publish in silence, so it has to be sent again.
TRY_TIMEOUT_S = 2.0

# Codes of nats-server's errors.json that our requests can meet and that can pass without a change of the
# request: somebody frees what is used up, an election ends, an administrator raises a limit or turns
# JetStream on again.
PASSING_CODES = frozenset(
    {
        10002,  # resource limits exceeded for account
        10004,  # incomplete results
        10005,  # no suitable peers for placement
        10006,  # JetStream not in clustered mode: the node has just started
        10007,  # JetStream cluster not assigned to this server
        10008,  # JetStream system temporarily unavailable
        10009,  # JetStream cluster can not handle request
        10012,  # the server could not create the consumer
        10023,  # insufficient resources
        10026,  # maximum consumers limit reached
        10027,  # maximum number of streams reached
        10028,  # insufficient memory resources available
        10035,  # account not found
        10039,  # JetStream not enabled for account
        10041,  # a Raft group failed
        10047,  # insufficient storage resources available
        10048,  # the stream could not be assigned
        10049,  # the server could not create the stream
        10051,  # the stream failed
        10069,  # the server could not update the stream
        10075,  # peer remap failed
        10076,  # JetStream not enabled
        10077,  # the stream could not store the message
        10096,  # stream not valid: it is being deleted or made
        10104,  # the server could not create the consumer's store
        10110,  # purge failed
        10111,  # rollup failed
        10118,  # stream is offline
        10119,  # consumer is offline
        10120,  # no JetStream default or applicable tiered limit present
        10124,  # stream move already in progress
        10158,  # the same message id is in process
        10163,  # expected last sequence per subject temporarily unavailable
        10164,  # another fenced message on this key is on its way through the replicas
        10167,  # too many requests
        10194,  # stream is offline, with a reason
        10195,  # consumer is offline, with a reason
        10202,  # cluster member change is in progress
        10226,  # stream reconfiguration already in progress
    }
)
# A cluster may place a consumer on a node that has just died, and does so for two minutes after the death:
# nobody answers then. Another request gets another node, so ask again soon, and take the first answer.
_ASK_AGAIN_AFTER_S = 0.4
_CREATE_TIMEOUT_S = 4.0
# Where answers take long, because of the way or because many are asked for, asking again does harm: it waits
# for so many times the usual answer, and longer if more than so many wait at once.
_USUAL_ANSWERS, _MANY = 4.0, 16
_LONGEST_TIMEOUT_S = 15.0
_TOO_MANY_REQUESTS, _UNAVAILABLE = 429, 503


def code_can_pass(code: int, err_code: int) -> bool:
    """Return whether an API error with this HTTP-like `code` and this `err_code` can pass by itself."""
    return err_code in PASSING_CODES or code in (_TOO_MANY_REQUESTS, _UNAVAILABLE)


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later although nobody changes it.

    The requests of this package raise StoreUnavailableError, or a class below it, for every such error.
    Refused permissions and an unusable bucket are not transient: somebody has to put them right. Refused
    credentials are, since they were accepted before.
    """
    if isinstance(error, DiscoveryError):
        return isinstance(error, StoreUnavailableError)
    return isinstance(error, (TimeoutError, OSError)) and not isinstance(error, PermissionError)


def understood(error: Exception) -> DiscoveryError:
    """Return `error`, or for one that is none of ours an error that can pass: a reply made no sense."""
    if isinstance(error, DiscoveryError):
        return error
    passing = StoreUnavailableError(
        f"could not make sense of the server's reply, which is asked for again: {error!r}"
    )
    passing.__cause__ = error
    return passing


def patience_s(error: BaseException | None) -> float:
    """Return for how many seconds work is tried again that failed with `error`."""
    return float(getattr(error, "patience_s", REQUEST_TIMEOUT))


def delays(first: float, longest: float) -> Iterator[float]:
    """Yield seconds to wait, doubling up to `longest`, each drawn from its upper half: crowds spread."""
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, keeps no secret)
        delay = min(delay * 2, longest)


class Backoff:
    """The waits between tries of one piece of work: `delays` that begin again after a success.

    `first` and `longest` are seconds.

    Example::

        backoff = Backoff(first=0.05, longest=0.5)
        while True:
            try:
                return await attempt()
            except StoreUnavailableError:
                if not await backoff.pause(patience_left=deadline - time.monotonic()):
                    raise
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._delays = delays(first, longest)

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._delays = delays(self._first, self._longest)

    def next(self) -> float:
        """Return the seconds of the next wait."""
        return next(self._delays)

    async def pause(self, patience_left: float) -> bool:
        """Wait before the next try; return False at once if that takes more than `patience_left` seconds."""
        wait = self.next()
        if wait > patience_left:
            return False
        await asyncio.sleep(wait)
        return True


async def first_answer(
    ask: Callable[[], Coroutine[Any, Any, _T]],
    *,
    again_after: Callable[[int], float],
    left: Callable[[], float],
    keep_asking: bool = False,
) -> _T | None:
    """Ask until there is an answer, and return the first one; None when there was none in time.

    A question that is lost gets no answer ever, so it is asked again: `again_after(tries)` seconds after the
    last time. `left()` tells how many seconds remain for all of it. An error that cannot pass ends the
    asking, and so does one that can pass when no other question is under way, unless told to `keep_asking`.
    """
    loop = asyncio.get_running_loop()
    asked: set[asyncio.Task[_T]] = set()
    under_way: set[asyncio.Task[_T]] = set()
    last_asked, error = loop.time(), None
    try:
        while (remaining := left()) > 0:
            wait = again_after(len(asked)) - (loop.time() - last_asked) if asked else 0.0
            if wait <= 0:
                last_asked = loop.time()
                under_way.add(task := asyncio.create_task(ask()))
                asked.add(task)
                wait = again_after(len(asked))
            wait = min(max(wait, _SHORTEST_WAIT_S), _LONGEST_WAIT_S, remaining)
            if not under_way:
                await asyncio.sleep(wait)
                continue
            done, under_way = await asyncio.wait(under_way, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                try:
                    return task.result()
                except StoreUnavailableError as refusal:
                    error = refusal
            if error is not None and not under_way and not keep_asking:
                break
        if error is not None:
            raise error
        return None
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


class Pace:
    """How long a connection's requests for consumers take, and so when one counts as lost."""

    def __init__(self) -> None:
        self.waiting = 0
        self._usual = 0.0

    @property
    def ask_again_after(self) -> float:
        """Seconds without an answer after which a request is sent once more."""
        return max(_ASK_AGAIN_AFTER_S * max(1.0, self.waiting / _MANY), _USUAL_ANSWERS * self._usual)

    @property
    def timeout(self) -> float:
        """Seconds without an answer, to any of the requests for one consumer, that make it fail."""
        return min(max(_CREATE_TIMEOUT_S, 3 * self.ask_again_after), _LONGEST_TIMEOUT_S)

    def note_answer(self, took: float) -> None:
        """Learn that an answer took so many seconds."""
        self._usual += 0.2 * (took - self._usual)
