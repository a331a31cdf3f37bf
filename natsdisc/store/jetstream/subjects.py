"""The subjects under which a client reaches JetStream: its own server's, a domain's, or an import's.

A domain is JetStream behind a leaf node. Its server maps `$JS.<domain>.API` to its API, and `$KV` below that
to its buckets. Leases have no such mapping: they cross the leaf node as they are. An import from another
account can have any prefix; then everything, leases too, is sent below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from ...errors import InvalidValueError

__all__ = ["Subjects", "is_subject"]

_DEFAULT = "$JS.API"
_DOMAINS = re.compile(r"\$JS\.([^.]+)\.API")
_VALUES = "$KV."
_FORBIDDEN = frozenset(" *>'\"\\")


@dataclass(frozen=True, slots=True)
class Subjects:
    """The prefix of API requests, and the domain if the prefix is that of one."""

    api: str = _DEFAULT
    domain: str | None = None

    @classmethod
    def of(cls, domain: str | None, api_prefix: str | None) -> Self:
        """Return the subjects of a JetStream `domain`, of an `api_prefix`, or with neither of this account.

        Raises InvalidValueError.
        """
        if domain is not None and api_prefix is not None:
            raise InvalidValueError(
                f"domain={domain!r} and api_prefix={api_prefix!r} exclude each other: a domain is the prefix "
                "$JS.<domain>.API; give one of them"
            )
        if domain is not None:
            if not is_subject(domain) or "." in domain:
                raise InvalidValueError(
                    f"domain must be the name of a JetStream domain, without dots, blanks and wildcards: "
                    f"{domain!r}"
                )
            return cls(f"$JS.{domain}.API", domain)
        if api_prefix is None:
            return cls()
        prefix = api_prefix.removesuffix(".") if isinstance(api_prefix, str) else api_prefix
        if not is_subject(prefix):
            raise InvalidValueError(
                f"api_prefix must be a subject without blanks and wildcards, such as $JS.hub.API: "
                f"{api_prefix!r}"
            )
        found = _DOMAINS.fullmatch(prefix)
        return cls(prefix, found[1] if found is not None else None)

    def call(self, request: str) -> str:
        """Return the subject of an API request, such as `STREAM.INFO.KV_v1_instances`."""
        return f"{self.api}.{request}"

    def publish(self, subject: str) -> str:
        """Return where to publish what a stream shall store under `subject`, a value's or a lease's."""
        if self.api == _DEFAULT or (self.domain is not None and not subject.startswith(_VALUES)):
            return subject
        return f"{self.api}.{subject}"


def is_subject(text: object) -> bool:
    """Return whether `text` is a subject without wildcards, of tokens that any server takes."""
    return (
        isinstance(text, str) and all(text.split(".")) and text.isprintable() and not set(text) & _FORBIDDEN
    )
