"""`natsdisc acl`: the NATS permissions of a user who reads, registers, or operates a registry."""

from __future__ import annotations

import textwrap

import click

from natsdisc.acl import LIMITS, Permissions, Role, permissions

from .output import pretty, say_json, say_text

__all__ = ["acl"]

_WIDTH = 100


@click.command(
    short_help="Print the permissions that a user of a role needs.",
    epilog="\n\n".join(("What permissions do not protect:", *LIMITS)),
)
@click.option(
    "--role", type=click.Choice([role.value for role in Role]), required=True, help="What the user does."
)
@click.option("--namespace", metavar="NS", help="Confine a reader or registrar to this namespace.")
@click.option("--component", help="Confine it to this component of the namespace.")
@click.option("--bucket-prefix", default="", help="Which of several registries on the server.")
@click.option(
    "--inbox-prefix",
    default="_INBOX",
    show_default=True,
    help="The user's own inbox prefix, which its connection must then set too.",
)
@click.option("--create", is_flag=True, help="Let a registrar make buckets that are not there yet.")
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
    inbox_prefix: str,
    create: bool,
    form: str,
) -> None:
    """Print the permissions that a NATS user of a role needs, and no more.

    \b
    reader     ls, watch, tree and top; nothing can be written
    registrar  register, unregister, drain, and reading the same
    operator   everything, also making buckets, status and prune

    Registrars need buckets that are there: an operator makes them with `natsdisc doctor --create`, or
    grant --create. For reading more than is written, add the lists of both roles.
    """
    if component is not None and namespace is None:
        raise click.UsageError("--component needs its --namespace.")
    if create and role != Role.REGISTRAR:
        raise click.UsageError("--create is for registrars: an operator may, and a reader must not.")
    allowed = permissions(
        Role(role),
        namespace=namespace,
        component=component,
        bucket_prefix=bucket_prefix,
        inbox_prefix=inbox_prefix,
        create=create,
    )
    if form == "json":
        say_json(pretty(allowed.as_dict()))
    elif form == "nsc":
        say_text(f"nsc edit user --name {role} \\\n  {allowed.as_nsc()}")
    else:
        say_text(_conf(allowed, role, namespace, component, inbox_prefix, create))


def _conf(
    allowed: Permissions,
    role: str,
    namespace: str | None,
    component: str | None,
    inbox_prefix: str,
    create: bool,
) -> str:
    """The block, with what its reader should know in comments."""
    place = "/".join(name for name in (namespace, component) if name is not None) or "everything"
    notes = [f"natsdisc {role} of {place!a}; goes into a user's entry. Not protected: natsdisc acl --help"]
    if role == Role.REGISTRAR and not create:
        notes.append("The buckets must be there: an operator makes them with `natsdisc doctor --create`.")
    if namespace is not None and inbox_prefix == "_INBOX":
        notes.append(
            "Others who may subscribe to _INBOX.> see what this user is answered, and it sees what they are: "
            "for a namespace that is nobody else's business give each an --inbox-prefix."
        )
    comments = [f"# {line}" for note in notes for line in textwrap.wrap(note, _WIDTH)]
    return "\n".join([*comments, allowed.as_conf()])
