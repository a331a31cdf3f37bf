"""The target of `natsdisc doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from natsdisc.acl import Permissions, Role, permissions

from .connection import Connection

__all__ = ["Target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A connection to check, and the rights that its user should have."""

    connection: Connection
    role: Role
    namespace: str | None
    component: str | None
    create: bool
    audit: bool
    options: dict[str, Any]  # for buckets that are made

    def permissions(self, role: Role) -> Permissions:
        """Return the rights that `role` needs here; an operator is never confined."""
        confined = role is not Role.OPERATOR
        return permissions(
            role,
            namespace=self.namespace if confined else None,
            component=self.component if confined else None,
            bucket_prefix=self.connection.bucket_prefix,
            inbox_prefix=str(self.connection.nats_options.get("inbox_prefix", "_INBOX")),
            **self.connection.jetstream,
        )

    @property
    def place(self) -> str:
        """The options of `natsdisc acl` that say where this user works."""
        words = [("--namespace", self.namespace), ("--component", self.component)]
        return "".join(f" {option} {name}" for option, name in words if name is not None)

    @property
    def identity(self) -> str:
        """The options of `natsdisc acl` that say which registry and inbox this user has."""
        prefix = self.connection.bucket_prefix
        bucket = f" --bucket-prefix {prefix}" if prefix else ""
        where = "".join(
            f" --{name.replace('_', '-')} {value}" for name, value in self.connection.jetstream.items()
        )
        return f"{bucket}{where} --inbox-prefix {self.connection.nats_options.get('inbox_prefix', '_INBOX')}"
