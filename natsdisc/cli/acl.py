"""`natsdisc acl`: the NATS permissions of a user who reads, registers, or operates a registry."""

from __future__ import annotations

import shlex
import textwrap

import click

from natsdisc.acl import LIMITS, Permissions, Role, inbox_prefix_of, permissions

from .output import pretty, say_json, say_text

__all__ = ["acl"]

_WIDTH = 100


@click.command(
    short_help="Print the permissions that a user of a role needs.",
    epilog="\n\n".join(("Permissions do not protect against these:", *LIMITS)),
)
@click.option(
    "--role", type=click.Choice([role.value for role in Role]), required=True, help="The role of the user."
)
@click.option("--namespace", metavar="NS", help="Confine a reader or registrar to this namespace.")
@click.option("--component", help="Confine it to this component of the namespace.")
@click.option(
    "--bucket-prefix",
    default="",
    envvar="NATSDISC_BUCKET_PREFIX",
    show_envvar=True,
    help="Which of several registries on the server.",
)
@click.option(
    "--user",
    metavar="NAME",
    help="The user's name, of which its inbox prefix is made.  [default: of its role and place]",
)
@click.option(
    "--inbox-prefix",
    metavar="SUBJECT",
    help="Another inbox prefix than the one made of the name; _INBOX is the one that all others share.",
)
@click.option(
    "--domain", envvar="NATSDISC_DOMAIN", show_envvar=True, help="The JetStream domain of the registry."
)
@click.option(
    "--api-prefix",
    envvar="NATSDISC_API_PREFIX",
    show_envvar=True,
    metavar="SUBJECT",
    help="The subject under which the user's account imports JetStream from another one.  [default: $JS.API]",
)
@click.option(
    "--create",
    is_flag=True,
    help="Let a registrar make buckets that are not there yet. A user who may create a stream can read and "
    "write everything in the account: see docs/security.md.",
)
@click.option(
    "--history",
    is_flag=True,
    help="Also the history (see natsdisc history): reading it, and for an operator making and deleting it.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["conf", "nsc", "json"]),
    default="conf",
    show_default=True,
    help="For the server's configuration, for nsc's command line, or for programs.",
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def acl(
    role: str,
    namespace: str | None,
    component: str | None,
    bucket_prefix: str,
    user: str | None,
    inbox_prefix: str | None,
    domain: str | None,
    api_prefix: str | None,
    create: bool,
    history: bool,
    form: str,
) -> None:
    """Print the permissions that a NATS user of a role needs, and no more.

    \b
    reader     ls, watch, tree and top; nothing can be written
    registrar  register, unregister, drain, and reading the same
    operator   everything, also making buckets, status and prune: in effect
               an administrator of the whole account

    Registrars need buckets that are there: an operator makes them with `natsdisc doctor --create`, or
    grant --create. For reading more than is written, add the lists of both roles.

    Each user has an inbox prefix of its own, made of its name (--user), so that no other user reads or forges
    its answers. Its connections must set the same: --inbox-prefix or NATS_INBOX_PREFIX, `inbox_prefix` in a
    context and in natsdisc.connect.
    """
    if component is not None and namespace is None:
        raise click.UsageError("--component needs its --namespace.")
    if create and role != Role.REGISTRAR:
        raise click.UsageError("--create is for registrars: an operator may, and a reader must not.")
    place = [name for name in (namespace, component) if name is not None]
    name = "-".join((role, *place)) if user is None else user
    inbox = inbox_prefix_of(name) if inbox_prefix is None else inbox_prefix
    allowed = permissions(
        Role(role),
        namespace=namespace,
        component=component,
        bucket_prefix=bucket_prefix,
        inbox_prefix=inbox,
        domain=domain,
        api_prefix=api_prefix,
        create=create,
        history=history,
    )
    if form == "json":
        say_json(pretty(allowed.as_dict()))
    elif form == "nsc":
        say_text(f"nsc edit user --name {shlex.quote(name)} \\\n  {allowed.as_nsc()}")
    else:
        say_text(_conf(allowed, role, namespace, component, inbox, create))


def _conf(
    allowed: Permissions,
    role: str,
    namespace: str | None,
    component: str | None,
    inbox_prefix: str,
    create: bool,
) -> str:
    """Return the block, with what its reader should know in comments."""
    place = "/".join(name for name in (namespace, component) if name is not None) or "everything"
    notes = [
        f"natsdisc {role} of {place!a}; goes into a user's entry. Not protected: natsdisc acl --help",
    ]
    if inbox_prefix == "_INBOX":
        notes.append(
            "All users who may subscribe to _INBOX.> read and forge each other's answers: better give each "
            "a prefix of its own, with --user."
        )
    else:
        notes.append(f"Its connections must set the inbox prefix {inbox_prefix} (NATS_INBOX_PREFIX).")
    if role == Role.REGISTRAR and not create:
        notes.append("The buckets must be there: an operator makes them with `natsdisc doctor --create`.")
    if role == Role.OPERATOR or create:
        notes.append(
            "A user who may create or update a stream can read and write everything in its account: treat it "
            "as an administrator, or give the registry an account of its own."
        )
    comments = [f"# {line}" for note in notes for line in textwrap.wrap(note, _WIDTH)]
    return "\n".join([*comments, allowed.as_conf()])
