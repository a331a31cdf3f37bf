"""Calls of an instance that are tried on another one when they fail."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from . import keys
from .balance import Balance, Rendezvous
from .choice import Choice
from .errors import DiscoveryError, InvalidValueError, NoInstanceError
from .model import Instance, Query, sort_key
from .picture import SortKey

__all__ = ["Calls", "RetryOn", "check_call", "check_panic_threshold", "failure_test"]

_T = TypeVar("_T")
# An instance, and how the attempt failed.
_Attempt: TypeAlias = tuple[Instance, BaseException]
RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]


class Calls:
    """The calls of one view. It remembers which instance answered last: that one is tried after a failure."""

    def __init__(self, query: Query, choice: Choice, balance: Balance, rendezvous: Rendezvous) -> None:
        self._query = query
        self._choice = choice
        self._balance = balance
        self._rendezvous = rendezvous
        self._last_answered: SortKey | None = None

    async def call(
        self,
        function: Callable[[Any], Awaitable[_T]],
        instance: Instance,
        key: str | bytes | None,
        attempts: int,
        timeout: float | None,
        is_failure: Callable[[Exception], bool],
    ) -> _T:
        """Await `function(instance)`, and try others while that fails; see `View.call`."""
        tried: list[_Attempt] = []
        while True:
            try:
                returned = await self._attempt(function, instance, timeout)
            except Exception as error:
                if not is_failure(error):
                    raise
                self._choice.report_failure(keys.key_of(instance.id))
                tried.append((instance, error))
                try:
                    if len(tried) >= attempts:
                        raise NoInstanceError("no attempt is left")
                    instance = self.pick_another([one for one, _ in tried], key)
                except NoInstanceError:
                    self._add_attempts(error, tried)
                    raise error  # noqa: B904 (the last error as it is)
            else:
                self._last_answered = sort_key(instance)
                return returned

    async def _attempt(
        self, function: Callable[[Any], Awaitable[_T]], instance: Instance, timeout: float | None
    ) -> _T:
        self._balance.started(instance.id)
        try:
            async with asyncio.timeout(timeout):
                return await function(instance)
        finally:
            self._balance.finished(instance.id)

    def pick_another(self, tried: Sequence[Instance], key: str | bytes | None) -> Instance:
        """Pick an instance besides those that were `tried`, or the one of them that failed longest ago.

        Raises NoInstanceError.
        """
        candidates: tuple[Instance, ...] = self._choice.others(tried)
        if key is not None:
            return self._rendezvous.pick(candidates, key)
        for one in candidates:
            if sort_key(one) == self._last_answered:
                return one
        return self._balance.pick(candidates)

    def _add_attempts(self, error: Exception, tried: list[_Attempt]) -> None:
        attempts = "; ".join(f"{one.id}: {type(failed).__name__}: {failed}" for one, failed in tried)
        count = f"{len(tried)} attempt{'' if len(tried) == 1 else 's'}"
        error.add_note(f"calling an instance of {self._query} failed after {count}: {attempts}")


def failure_test(retry_on: RetryOn | None) -> Callable[[Exception], bool]:
    """Return a function that tells whether an error is the instance's, so that another one is tried.

    Without `retry_on` these are OSError, which includes ConnectionError and TimeoutError, and NATS's "no
    responders". An error of natsdisc itself is not the instance's.
    """
    if retry_on is None:
        return _is_connection_failure
    types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    if not all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
        raise InvalidValueError(f"retry_on must be an exception type or a tuple of them, not {retry_on!r}")
    return lambda error: isinstance(error, types)


def _is_connection_failure(error: Exception) -> bool:
    if isinstance(error, OSError):
        return not isinstance(error, DiscoveryError)
    # nats-py is no dependency of this module: a user's function may raise its errors all the same.
    return any(
        (one.__module__, one.__name__) == ("nats.errors", "NoRespondersError") for one in type(error).__mro__
    )


def check_call(function: object, attempts: object, timeout: object) -> None:
    """Raise InvalidValueError unless the arguments of `View.call` make sense."""
    if not callable(function):
        raise InvalidValueError(f"call takes a function of an instance, not {type(function).__name__}")
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise InvalidValueError(f"attempts must be a whole number, 1 or more: {attempts!r}")
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0
    ):
        raise InvalidValueError(f"timeout must be None or more than 0 s for each attempt: {timeout!r}")


def check_panic_threshold(threshold: object) -> None:
    """Raise InvalidValueError unless `threshold` is a share, from 0 to 1."""
    if (
        isinstance(threshold, bool)
        or not isinstance(threshold, (int, float))
        or math.isnan(threshold)
        or not 0 <= threshold <= 1
    ):
        raise InvalidValueError(
            f"panic_threshold must be a share of the known instances, 0 (never) to 1: {threshold!r}"
        )
