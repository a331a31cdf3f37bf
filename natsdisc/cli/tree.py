"""`natsdisc tree`: what is registered, as namespaces, components, endpoints and instances."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

import natsdisc
from natsdisc.balance import is_draining
from natsdisc.model import Instance, ModelInstance

from .connection import Connection, connection_options
from .progress import progress
from .render import detail, json_option, on_terminal, printable
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
        click.echo(json.dumps(_paths(branches), indent=2, ensure_ascii=False))
    elif not branches:
        click.echo(f"natsdisc: no {queries[0]} and no models registered", err=True)
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
        return f"{name}{printable(suffix)}  model {detail(instance)}"
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
        click.echo(printable(namespace))
        for component, endpoints in sorted(components.items()):
            click.echo(f"  {printable(component)}")
            for endpoint, instances in sorted(endpoints.items()):
                click.echo(f"    {printable(endpoint)}")
                for instance in instances:
                    click.echo(f"      {_leaf(instance)}")


def _draw(branches: _Branches) -> None:
    console = Console(highlight=False)
    for namespace, components in sorted(branches.items()):
        root = Tree(Text(printable(namespace), "bold"))
        for component, endpoints in sorted(components.items()):
            branch = root.add(Text(printable(component), "bold"))
            for endpoint, instances in sorted(endpoints.items()):
                twig = branch.add(Text(printable(endpoint)))
                for instance in instances:
                    twig.add(Text(_leaf(instance), "dim" if is_draining(instance) else ""))
        console.print(root)
