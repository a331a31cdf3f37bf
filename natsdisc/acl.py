"""What a NATS user of each role must be allowed: exactly the subjects that natsdisc uses, and no others.

What permissions cannot protect is in `LIMITS`. Whoever must not be trusted that far gets a registry (by
`bucket_prefix`), or better an account, of its own.
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
from .store.jetstream.stream_config import StreamOptions

__all__ = ["LIMITS", "Permissions", "Role", "permissions"]

LIMITS = (
    "A registrar can read every namespace (STREAM.MSG.GET, STREAM.INFO): NATS cannot confine these.",
    "A registrar can make a listing, or a watch that just begins, miss others' entries, by a forged schedule "
    "or a rollup, and take others' leases away. Watches ignore it, and each owner puts its entry and lease "
    "back with its next heartbeat, after ttl/3 at most; but who does it again and again, or by a schedule "
    "that repeats (@every), keeps listings incomplete for as long. An entry without a lease has no owner to "
    "put it back; an entry whose owner dies before that stays (see `natsdisc prune`).",
    "Every user, a reader too, can have the answer to a request sent to any subject, and so overwrite an "
    "entry with rubbish: NATS does not check reply subjects. The owner puts it back as above; watchers may "
    "see it go and come.",
    "Users who share an inbox prefix can read each other's answers, and so what the others watch, and end "
    "the consumer it comes through (the watch makes a new one within seconds): give a user who must not see "
    "other namespaces an inbox prefix of its own.",
    "What to use instead: a bucket prefix for each party, with permissions for that prefix only, keeps their "
    "streams apart, and so all of this but rubbish by an answer; an account for each party keeps everything "
    "apart.",
)


class Role(StrEnum):
    """What somebody does with a registry."""

    READER = "reader"  # ls, watch, top
    REGISTRAR = "registrar"  # register, unregister, drain, and read the same
    OPERATOR = "operator"  # all of that everywhere, make and extend buckets, status, prune


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user may publish and subscribe to, as the server's allow lists take them."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def as_conf(self) -> str:
        """The block of a server configuration."""

        def block(name: str, subjects: tuple[str, ...]) -> str:
            lines = "".join(f"\n      {json.dumps(subject)}" for subject in subjects)
            return f"  {name}: {{\n    allow: [{lines}\n    ]\n  }}\n"

        return f"permissions: {{\n{block('publish', self.publish)}{block('subscribe', self.subscribe)}}}"

    def as_nsc(self) -> str:
        """The flags of `nsc add user` and `nsc edit user`, quoted for a shell."""
        flags = [f"--allow-pub '{subject}'" for subject in self.publish]
        flags += [f"--allow-sub '{subject}'" for subject in self.subscribe]
        return " \\\n  ".join(flags)

    def as_dict(self) -> dict[str, Any]:
        """The value of `permissions` in a server configuration."""
        return {"publish": {"allow": [*self.publish]}, "subscribe": {"allow": [*self.subscribe]}}


def permissions(
    role: Role,
    *,
    namespace: str | None = None,
    component: str | None = None,
    bucket_prefix: str = "",
    inbox_prefix: str = "_INBOX",
    create: bool = False,
) -> Permissions:
    """The permissions of `role`, everywhere or in one namespace or component.

    With `create`, a registrar may make buckets that are not there; otherwise an operator has to.
    A reader of one namespace is not told what kind of stream a bucket is, for that tells all keys too.
    Raises InvalidNameError, InvalidQueryError (an operator of a namespace).
    """
    StreamOptions(bucket_prefix=bucket_prefix)  # raises for a bad prefix
    tokens = inbox_prefix.split(".")
    if not all(tokens) or not inbox_prefix.isprintable() or set(inbox_prefix) & set(" *>'\"\\"):
        raise InvalidNameError(f"inbox_prefix must be a subject without wildcards: {inbox_prefix!r}")
    if role is Role.OPERATOR and namespace is not None:
        raise InvalidQueryError("an operator is not confined to a namespace")
    place = keys.prefix_of(endpoints(namespace, component))
    below = f"{place}.>" if place else ">"
    publish: list[str] = []
    subscribe = [f"{inbox_prefix}.>"]
    for name in BUCKETS.values():
        bucket = f"{bucket_prefix}_{name}" if bucket_prefix else name
        stream = f"KV_{bucket}"
        publish += [
            f"$JS.API.CONSUMER.CREATE.{stream}.*.$KV.{bucket}.{below}",
            f"$JS.API.CONSUMER.INFO.{stream}.*",
            f"$JS.API.CONSUMER.DELETE.{stream}.*",
        ]
        subscribe.append(f"$JS.EVENT.ADVISORY.STREAM.CREATED.{stream}")
        if role is not Role.READER or namespace is None:
            publish.append(f"$JS.API.STREAM.INFO.{stream}")
        if role is not Role.READER:
            publish += [
                f"$JS.API.STREAM.MSG.GET.{stream}",
                f"$KV.{bucket}.{below}",
                f"$NATSDISC.LEASE.{bucket}.{below}",
            ]
        if role is Role.OPERATOR or (role is Role.REGISTRAR and create):
            publish.append(f"$JS.API.STREAM.CREATE.{stream}")
        if role is Role.OPERATOR:
            publish.append(f"$JS.API.STREAM.UPDATE.{stream}")
    publish.append("$JS.FC.>")  # the answers that flow control asks for
    return Permissions(tuple(publish), tuple(subscribe))
