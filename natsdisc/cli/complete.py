"""Completion of places with the names that are registered now: bounded in time, and silent about errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

import natsdisc
from natsdisc.model import Instance

from .connection import connection_of
from .output import muted
from .path import escaped, joined, parts_of, path_of

__all__ = ["complete_instances", "complete_place"]

# A shell that waits for longer seems to hang (seconds).
_PATIENCE = 1.5
_MOST = 500  # candidates; nobody reads more
_NAMES = 3


def complete_place(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return names for the next word of a place, or the next part of a path with slashes."""
    words = tuple(ctx.params.get("words") or ())
    whole = [*words, incomplete]
    before, _, last = incomplete.rpartition("/")
    try:
        parents = parts_of([*words, *([before] if "/" in incomplete else [])])
    except click.UsageError:
        return []
    if len(parents) > _NAMES:
        return []
    found: set[str] = set()
    for instance in _instances(ctx, parents):
        part = _part(instance, len(parents))
        if part.startswith(last):
            found.add(f"{before}/{part}" if "/" in whole[-1] else part)
    return _items(found)


def complete_instances(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the paths of instances that begin with `incomplete`."""
    before, slash, _ = incomplete.rpartition("/")
    try:
        parents = parts_of([before])[:_NAMES] if slash else ()
    except click.UsageError:
        return []
    paths = {path_of(one.id) for one in _instances(ctx, parents)}
    return _items(path for path in paths if path.startswith(incomplete))


def _part(instance: Instance, depth: int) -> str:
    if depth < _NAMES:
        name = (instance.namespace, instance.component, instance.endpoint)[depth]
        return escaped(name) if depth else joined((name,))
    return f"{instance.instance_id:x}"


def _items(texts: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(text) for text in sorted(texts)[:_MOST]]


def _instances(ctx: click.Context, names: tuple[str, ...]) -> list[Instance]:
    """Return what is registered below `names`; nothing when that cannot be found out in time."""
    logging.disable(logging.CRITICAL)
    with muted():
        try:
            return asyncio.run(_listed(ctx, names))
        except (Exception, click.exceptions.Exit):
            return []
    return []


async def _listed(ctx: click.Context, names: tuple[str, ...]) -> list[Instance]:
    connection = connection_of(ctx)
    make = natsdisc.models if ctx.params.get("models") else natsdisc.endpoints
    async with asyncio.timeout(_PATIENCE):
        async with connection.open() as discovery:
            return await discovery.list(make(*names))
