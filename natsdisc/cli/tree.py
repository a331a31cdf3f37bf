"""`natsdisc tree`: what is registered, as namespaces, components, endpoints and instances."""

from __future__ import annotations

import dataclasses
from typing import Any

import click
from rich.console import Console
from rich.tree import Tree

import natsdisc
from natsdisc.model import Instance, ModelInstance

from .connection import Connection, connection_options
from .output import cell, on_terminal, pretty, say, say_json
from .path import escaped, hex_id, joined, path_of
from .place import Place, place_argument
from .progress import progress
from .render import detail, json_option, status_of
from .run import run
from .void import say_nothing_there

__all__ = ["tree"]

_Branches = dict[str, dict[str, dict[str, list[Instance]]]]


@click.command(short_help="Show what is registered as a tree.")
@place_argument(kinds=False)
@json_option
@connection_options
def tree(place: Place, as_json: bool, connection: Connection) -> None:
    """Show what is registered in PLACE as a tree, endpoints and model cards together.

    --json prints objects of objects: namespace, component, endpoint, and then the places of instances.
    """
    places = place, dataclasses.replace(place, query=natsdisc.models(*place.query.names))
    branches = run(_grow(connection, places))
    if as_json:
        say_json(pretty(_paths(branches)))
    elif not branches:
        say_nothing_there(connection, *places)
    elif on_terminal():
        _draw(branches)
    else:
        _write(branches)


async def _grow(connection: Connection, places: tuple[Place, ...]) -> _Branches:
    branches: _Branches = {}
    async with progress("listing"), connection.open() as discovery:
        for place in places:
            for instance in await discovery.list(place.query):
                if place.holds(instance.id):
                    components = branches.setdefault(instance.namespace, {})
                    endpoints = components.setdefault(instance.component, {})
                    endpoints.setdefault(instance.endpoint, []).append(instance)
    return branches


def _leaf(instance: Instance) -> str:
    name = hex_id(instance.instance_id)
    if isinstance(instance, ModelInstance):
        suffix = f"/{escaped(instance.model_suffix)}" if instance.model_suffix else ""
        return f"{name}{suffix}  model {detail(instance)}"
    return f"{name}  {detail(instance)}"


def _paths(branches: _Branches) -> dict[str, Any]:
    return {
        namespace: {
            component: {
                endpoint: [path_of(one.id) for one in found] for endpoint, found in sorted(below.items())
            }
            for component, below in sorted(components.items())
        }
        for namespace, components in sorted(branches.items())
    }


def _write(branches: _Branches) -> None:
    for namespace, components in sorted(branches.items()):
        say(joined((namespace,)))
        for component, endpoints in sorted(components.items()):
            say(f"  {escaped(component)}")
            for endpoint, instances in sorted(endpoints.items()):
                say(f"    {escaped(endpoint)}")
                for instance in instances:
                    say(f"      {_leaf(instance)}")


def _draw(branches: _Branches) -> None:
    console = Console(highlight=False)
    for namespace, components in sorted(branches.items()):
        root = Tree(cell(joined((namespace,)), "bold"))
        for component, endpoints in sorted(components.items()):
            branch = root.add(cell(escaped(component), "bold"))
            for endpoint, instances in sorted(endpoints.items()):
                twig = branch.add(cell(escaped(endpoint)))
                for instance in instances:
                    twig.add(cell(_leaf(instance), "" if status_of(instance) == "serving" else "dim"))
        # A line that is too long goes on in the next one, unbroken for those who copy it.
        console.print(root, soft_wrap=True)
