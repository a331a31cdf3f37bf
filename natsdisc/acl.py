"""The permissions that a NATS user of each role needs: the subjects that natsdisc uses, and no others.

`LIMITS` says what permissions cannot protect. If a party must not be trusted that far, give it a registry (by
`bucket_prefix`), or better an account, of its own. docs/security.md says who can do what to whom.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from . import keys
from .entry import BUCKETS
from .errors import InvalidNameError, InvalidQueryError
from .model import endpoints
from .store.jetstream.history import history_name
from .store.jetstream.marks import MARK
from .store.jetstream.stream_config import StreamOptions
from .store.jetstream.subjects import Subjects, is_subject

__all__ = ["LIMITS", "Permissions", "Role", "inbox_prefix_of", "permissions"]

LIMITS = (
    "A registrar can read every namespace (STREAM.MSG.GET, STREAM.INFO): NATS cannot confine these.",
    "A registrar can end or hide others' entries for a while, by forged schedules, by rollups, and by taking "
    "leases away. Watches ignore most of it, and each owner puts its entry and lease back with its next "
    "heartbeat, after ttl/3 at most. An attacker can do it again and again, for example by a schedule that "
    "repeats; `natsdisc doctor --audit` finds these. An entry without a lease has no owner to put it back.",
    "Every user, a reader too, can have the answer to a request sent to any subject, and so overwrite an "
    "entry or a lease with an invalid value: NATS does not check reply subjects. The owner puts it back as "
    "above.",
    "Every user, a reader too, can have JetStream deliver entries to any subject of the account, and so to "
    "whatever listens there: NATS does not check the deliver subject of a consumer.",
    "Users who share an inbox prefix can read each other's answers, and can forge them. So each user has a "
    "prefix of its own, unless you choose another.",
    "A user who may create or update a stream (an operator, a registrar with --create) can read and write "
    "everything in the account: a stream can take in (sources) and send out (republish) any subject.",
    "A user who may write can fill the account; then nothing more is written, and no lease ends.",
    "To close all of this: an account for the registry alone, or for each party one with a registry in it.",
)


class Role(StrEnum):
    """A kind of work with a registry."""

    READER = "reader"  # ls, watch, top
    REGISTRAR = "registrar"  # register, unregister, drain, and read the same
    OPERATOR = "operator"  # all of that everywhere, make and extend buckets: in effect the whole account


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user may publish and subscribe to, as the server's allow lists take them."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def as_conf(self) -> str:
        """Return the block of a server configuration."""

        def block(name: str, subjects: tuple[str, ...]) -> str:
            lines = "".join(f"\n      {json.dumps(subject)}" for subject in subjects)
            return f"  {name}: {{\n    allow: [{lines}\n    ]\n  }}\n"

        return f"permissions: {{\n{block('publish', self.publish)}{block('subscribe', self.subscribe)}}}"

    def as_nsc(self) -> str:
        """Return the flags of `nsc add user` and `nsc edit user`, quoted for a shell."""
        flags = [f"--allow-pub '{subject}'" for subject in self.publish]
        flags += [f"--allow-sub '{subject}'" for subject in self.subscribe]
        return " \\\n  ".join(flags)

    def as_dict(self) -> dict[str, Any]:
        """Return the value of `permissions` in a server configuration."""
        return {"publish": {"allow": [*self.publish]}, "subscribe": {"allow": [*self.subscribe]}}


# The words before the names in the keys of event channels and sources.
_LEVELS = ("namespace", "component")


def inbox_prefix_of(user: str) -> str:
    """Return the inbox prefix of the user `user`: one that no other user name has.

    The connection of that user must set it too: `natsdisc.connect(…, inbox_prefix=…)`.
    Raises InvalidNameError.

    >>> inbox_prefix_of("CN=shop")
    '_INBOX_CN=3Dshop'
    """
    if not user:
        raise InvalidNameError("the name of a user must not be empty: its inbox prefix is made of it")
    return f"_INBOX_{keys.prefix_of(endpoints(user))}"


def permissions(
    role: Role,
    *,
    namespace: str | None = None,
    component: str | None = None,
    bucket_prefix: str = "",
    inbox_prefix: str = "_INBOX",
    domain: str | None = None,
    api_prefix: str | None = None,
    create: bool = False,
    history: bool = False,
) -> Permissions:
    """Return the permissions of `role`, everywhere or in one namespace or component.

    With `create`, a registrar may make buckets that are not there; otherwise an operator has to. A user who
    may create a stream can read and write the whole account. `inbox_prefix` is by default that of nats-py,
    which all users share; `inbox_prefix_of` makes one for a user alone. `domain` and `api_prefix` are those
    of `natsdisc.connect`.
    A reader of one namespace is not told what kind of stream a bucket is, for that tells all keys too.
    With `history`, the user may read the history of the buckets, and an operator may make and delete it.
    Raises InvalidNameError, InvalidValueError, InvalidQueryError (an operator of a namespace, or a history
    of one).

    >>> permissions(Role.READER, inbox_prefix=inbox_prefix_of("ann")).subscribe[0]
    '_INBOX_ann.>'
    """
    StreamOptions(bucket_prefix=bucket_prefix)  # raises for a bad prefix
    subjects = Subjects.of(domain, api_prefix)
    if not is_subject(inbox_prefix):
        raise InvalidNameError(f"inbox_prefix must be a subject without wildcards: {inbox_prefix!r}")
    if role is Role.OPERATOR and namespace is not None:
        raise InvalidQueryError("an operator is not confined to a namespace")
    if history and namespace is not None:
        raise InvalidQueryError("the reading of a history cannot be confined to a namespace: NATS has no way")
    place = keys.prefix_of(endpoints(namespace, component))
    scope = ".".join(f"{level}.{token}" for level, token in zip(_LEVELS, place.split("."), strict=False))
    places = {kind: scope if place and "event" in kind else place for kind in BUCKETS}
    publish: list[str] = []
    subscribe = [f"{inbox_prefix}.>"]
    for kind, name in BUCKETS.items():
        bucket = f"{bucket_prefix}_{name}" if bucket_prefix else name
        below = f"{places[kind]}.>" if places[kind] else ">"
        stream = f"KV_{bucket}"
        publish += [
            f"{subjects.api}.CONSUMER.CREATE.{stream}.*.$KV.{bucket}.{below}",
            f"{subjects.api}.CONSUMER.INFO.{stream}.*",
            f"{subjects.api}.CONSUMER.DELETE.{stream}.*",
        ]
        subscribe.append(f"$JS.EVENT.ADVISORY.STREAM.CREATED.{stream}")
        if role is not Role.READER or namespace is None:
            publish.append(f"{subjects.api}.STREAM.INFO.{stream}")
        if role is not Role.READER:
            publish += [
                f"{subjects.api}.STREAM.MSG.GET.{stream}",
                subjects.publish(f"$KV.{bucket}.{below}"),
                subjects.publish(f"$NATSDISC.LEASE.{bucket}.{below}"),
                *([subjects.publish(f"$NATSDISC.LEASE.{bucket}.{MARK}")] if place else []),
            ]
        if role is Role.OPERATOR or (role is Role.REGISTRAR and create):
            publish.append(f"{subjects.api}.STREAM.CREATE.{stream}")
        if role is Role.OPERATOR:
            publish.append(f"{subjects.api}.STREAM.UPDATE.{stream}")
        if history:
            past = history_name(bucket)
            publish += [f"{subjects.api}.STREAM.INFO.{past}", f"{subjects.api}.DIRECT.GET.{past}"]
            if role is Role.OPERATOR:
                publish += [f"{subjects.api}.STREAM.{verb}.{past}" for verb in ("CREATE", "UPDATE", "DELETE")]
    publish.append("$JS.FC.>")  # the answers that flow control asks for
    return Permissions(tuple(publish), tuple(subscribe))
