"""`natsdisc prune`: remove registrations that nothing else ends, and schedules that are nobody's lease."""

from __future__ import annotations

import click

from .connection import Connection, connection_options
from .options import SPAN
from .output import pretty, say, say_json
from .pruning import Fate, Outcome, Pruning
from .render import json_option
from .run import run

__all__ = ["prune"]


@click.command(short_help="Remove what has no lease, by pattern or age.")
@click.argument("pattern", required=False)
@click.option("--older-than", type=SPAN, metavar="AGE", help="Last written so long ago: 90s, 15m, 2h, 7d.")
@click.option(
    "--wait",
    type=SPAN,
    default="60s",
    show_default=True,
    help="How long to wait for owners that may be alive.",
)
@click.option(
    "--foreign-schedules",
    is_flag=True,
    help="Also end schedules that are no lease, and what else lies in the place of leases.",
)
@click.option("--yes", is_flag=True, help="Remove them; without it they are only shown.")
@json_option
@connection_options
def prune(
    pattern: str | None,
    older_than: float | None,
    wait: float,
    foreign_schedules: bool,
    yes: bool,
    as_json: bool,
    connection: Connection,
) -> None:
    """Remove registrations that have no lease, by a PATTERN of paths or by age.

    PATTERN is matched against paths as `tree` shows them, with * for anything: 'shop/cart/*'. A registration
    under a lease is not touched: its lease ends it. An entry that changes while this runs stays too.

    An entry that was written under a lease, and has lost it, may belong to a process that is alive. It gets a
    lease again: its owner renews that, or the server removes the entry when the lease ends.

    --foreign-schedules ends what `doctor --audit` finds among the leases. Without --yes nothing is removed.
    """
    if pattern is None and older_than is None and not foreign_schedules:
        raise click.UsageError(
            "Say which: a PATTERN such as 'shop/*' ('*' is all), --older-than, both, or --foreign-schedules."
        )
    entries = pattern is not None or older_than is not None
    pruning = Pruning(pattern or "*" if entries else None, older_than or 0.0, wait, foreign_schedules)
    outcomes = run(pruning.run(connection, remove=yes))
    if as_json:
        say_json(pretty([outcome.fields for outcome in outcomes]))
        return
    for outcome in outcomes:
        say(f"{outcome.fate:24}  {outcome.what:8}  {outcome.path}  {outcome.rest}")
    _sum_up(outcomes, yes)


def _sum_up(outcomes: list[Outcome], yes: bool) -> None:
    if not outcomes:
        say("natsdisc: no registration without a lease matches", err=True)
    elif not yes:
        say(f"natsdisc: nothing was removed; --yes removes these {len(outcomes)}", err=True)
    left = sum(outcome.fate is Fate.LENT for outcome in outcomes)
    if left:
        say(f"natsdisc: {left} have a lease again, and go when it ends unless they are renewed", err=True)
