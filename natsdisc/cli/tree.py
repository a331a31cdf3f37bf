"""`natsdisc tree`: what is registered, as namespaces, components, endpoints and instances."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.tree import Tree

import natsdisc
from natsdisc.balance import is_draining
from natsdisc.model import Instance, ModelInstance

from .connection import Connection, connection_options
from .output import cell, on_terminal, pretty, say, say_json
from .progress import progress
from .render import detail, json_option
from .run import run

__all__ = ["tree"]

_Branches = dict[str, dict[str, dict[str, list[Instance]]]]


@click.command(short_help="Show what is registered as a tree.")
@click.argument("namespace", required=False, metavar="[NS")
@click.argument("component", required=False, metavar="[COMPONENT]]")
@json_option
@connection_options
def tree(namespace: str | None, component: str | None, as_json: bool, connection: Connection) -> None:
    """Show what is registered as a tree, endpoints and model cards together.

    --json prints objects of objects: namespace, component, endpoint, and then paths of instances.
    """
    queries = natsdisc.endpoints(namespace, component), natsdisc.models(namespace, component)
    branches = run(_grow(connection, queries))
    if as_json:
        say_json(pretty(_paths(branches)))
    elif not branches:
        say(f"natsdisc: no {queries[0]} and no models registered", err=True)
    elif on_terminal():
        _draw(branches)
    else:
        _write(branches)


async def _grow(
    connection: Connection, queries: tuple[natsdisc.EndpointQuery, natsdisc.ModelQuery]
) -> _Branches:
    branches: _Branches = {}
    async with progress("listing"), connection.open() as discovery:
        for query in queries:
            for instance in await discovery.list(query):
                components = branches.setdefault(instance.namespace, {})
                endpoints = components.setdefault(instance.component, {})
                endpoints.setdefault(instance.endpoint, []).append(instance)
    return branches


def _leaf(instance: Instance) -> str:
    name = f"{instance.instance_id:x}"
    if isinstance(instance, ModelInstance):
        suffix = f"/{instance.model_suffix}" if instance.model_suffix else ""
        return f"{name}{suffix}  model {detail(instance)}"
    return f"{name}  {detail(instance)}"


def _paths(branches: _Branches) -> dict[str, Any]:
    return {
        namespace: {
            component: {endpoint: [str(one.id) for one in found] for endpoint, found in sorted(below.items())}
            for component, below in sorted(components.items())
        }
        for namespace, components in sorted(branches.items())
    }


def _write(branches: _Branches) -> None:
    for namespace, components in sorted(branches.items()):
        say(namespace)
        for component, endpoints in sorted(components.items()):
            say(f"  {component}")
            for endpoint, instances in sorted(endpoints.items()):
                say(f"    {endpoint}")
                for instance in instances:
                    say(f"      {_leaf(instance)}")


def _draw(branches: _Branches) -> None:
    console = Console(highlight=False)
    for namespace, components in sorted(branches.items()):
        root = Tree(cell(namespace, "bold"))
        for component, endpoints in sorted(components.items()):
            branch = root.add(cell(component, "bold"))
            for endpoint, instances in sorted(endpoints.items()):
                twig = branch.add(cell(endpoint))
                for instance in instances:
                    twig.add(cell(_leaf(instance), "dim" if is_draining(instance) else ""))
        console.print(root)
