"""`natsdisc doctor`: what is wrong between here and a registry, and what to do."""

from __future__ import annotations

import dataclasses

import click

from natsdisc.acl import Role

from .connection import Connection, connection_options
from .credentials import hidden
from .doctor_checks import check
from .doctor_target import Target
from .failure import ExitCode
from .finding import BROKEN, NOTE, OK, SKIPPED, Finding
from .output import pretty, say, say_json
from .progress import progress
from .render import json_option
from .run import run

__all__ = ["doctor"]

_COLOURS = {OK: "green", NOTE: "yellow", BROKEN: "red", SKIPPED: "bright_black"}


@click.command(short_help="Find out what is wrong, and what to do.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.REGISTRAR.value,
    show_default=True,
    help="The role that this user has to have.",
)
@click.option("--namespace", metavar="NS", help="Where it has to be able to do that.  [default: everywhere]")
@click.option("--component", help="The component of the namespace.")
@click.option("--create", is_flag=True, help="Make the buckets that are not there.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    help="Of new buckets.  [default: 3 in a cluster of three or more servers, else 1]",
)
@click.option(
    "--storage",
    type=click.Choice(["file", "memory"]),
    help="Of new buckets.  [default: memory]",
)
@click.option(
    "--audit",
    is_flag=True,
    help="Also look for schedules and entries that no natsdisc registrar wrote; needs an operator's rights.",
)
@json_option
@connection_options
def doctor(
    role: str,
    namespace: str | None,
    component: str | None,
    create: bool,
    replicas: int | None,
    storage: str | None,
    audit: bool,
    as_json: bool,
    connection: Connection,
) -> None:
    """Check everything between here and a registry; each line is ok, or says what to do.

    It connects, asks what this user may do, and looks at the buckets. It sends the mark of a removal through
    the bucket and back; nothing is registered, and no watch, list or view of others shows anything. It exits
    with 1 when something is broken.

    With --audit it looks at each message of the buckets. It names schedules that are no lease (they can write
    to any key, again and again), what else lies in the place of leases, values that are no registration, and
    values that another program wrote. `natsdisc prune --foreign-schedules` ends the first two.
    """
    if component is not None and namespace is None:
        raise click.UsageError("--component needs its --namespace.")
    target = Target(
        connection=connection,
        role=Role(role),
        namespace=namespace,
        component=component,
        create=create,
        audit=audit,
        options={"replicas": replicas, "storage": storage},
    )
    target.permissions(target.role)  # bad names are told before anything is asked
    findings = run(_examine(target, as_json), quiet=True)
    if as_json:
        say_json(pretty([dataclasses.asdict(finding) for finding in findings]))
    if any(finding.state == BROKEN for finding in findings):
        click.get_current_context().exit(ExitCode.FAILED)


async def _examine(target: Target, quiet: bool) -> list[Finding]:
    findings: list[Finding] = []
    work = check(target)
    while True:
        async with progress("checking", in_logs=False):
            finding = await anext(work, None)
        if finding is None:
            return findings
        finding = dataclasses.replace(finding, text=hidden(finding.text), todo=hidden(finding.todo))
        findings.append(finding)
        if not quiet:
            _show(finding)


def _show(finding: Finding) -> None:
    say((f"{finding.state:8}", _COLOURS[finding.state]), f"{finding.check:18}  {finding.text}")
    if finding.todo:
        say(f"{'':28}-> {finding.todo}")
