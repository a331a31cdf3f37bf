"""Functions that users hand over: checked when they are given, and watched when they are called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .errors import InvalidValueError

__all__ = ["check_callback", "plain"]


def check_callback(name: str, callback: object) -> None:
    """Raise InvalidValueError unless `callback` is a plain function; `name` is what the error calls it."""
    if not callable(callback):
        raise InvalidValueError(f"{name} must be a function, not {type(callback).__name__}")
    function: Any = callback
    while isinstance(function, functools.partial):
        function = function.func
    # Of an object that can be called, look at what is called.
    is_routine = inspect.isroutine(function) or inspect.isclass(function)
    called = function if is_routine else type(function).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise InvalidValueError(
            f"{name} must be a plain function; {_name_of(callback)} is async, and nothing would await it; "
            "give a function that calls asyncio.create_task, or that puts into a queue"
        )


def plain(callback: Callable[..., object]) -> Callable[..., None]:
    """Return a function that calls `callback`, and raises InvalidValueError when it returned a coroutine."""

    @functools.wraps(callback, updated=())
    def call(*args: object) -> None:
        returned = callback(*args)
        if inspect.iscoroutine(returned):
            returned.close()
            raise InvalidValueError(
                f"{_name_of(callback)} returned a coroutine that nothing awaits; give a plain function"
            )

    return call


def _name_of(callback: object) -> str:
    return str(getattr(callback, "__qualname__", None) or repr(callback))
