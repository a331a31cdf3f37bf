"""The configuration of the stream behind a bucket: how natsdisc makes one, and which ones it refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ...errors import InvalidNameError, InvalidValueError, UnsupportedServerError
from ...lease import MAX_TTL

__all__ = [
    "MAX_CONSUMERS",
    "NewStream",
    "Storage",
    "StreamOptions",
    "check_version",
    "data_loss",
    "extended",
    "not_a_bucket",
    "version_of",
]

Storage: TypeAlias = Literal["file", "memory"]

_PREFIX_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
# nats-server 2.15 allows 1,000 consumers on a stream that names no number, and each watch needs one.
MAX_CONSUMERS = 100_000
_REPLICAS_IN_A_CLUSTER = 3
_FIRST_WITH_LEASES = (2, 12)
# Tried in this order where the account wants every stream to have a limit; an instance takes about 1 KiB.
_SIZES_BYTES = (256_000_000, 64_000_000, 16_000_000, 4_000_000, 1_000_000, 250_000)

# Codes of nats-server's errors.json.
_NO_PEERS = (10005, 10074)  # too few servers for the replicas, or no cluster at all
_NO_MEMORY = (10028, 10122)
_TOO_MANY_CONSUMERS = 10026
_SIZE_REQUIRED, _SIZE_TOO_LARGE = 10113, (10122, 10028, 10047)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How buckets are made and named.

    `replicas=None` makes three in a cluster of three or more, else one. `storage=None` takes memory for a
    bucket whose first registration has a lease, else files. `tombstone_ttl` is in seconds. In one namespace,
    `own_consumers` queries of a process have a consumer each; further ones share one.
    """

    replicas: int | None = None
    storage: Storage | None = None
    bucket_prefix: str = ""
    tombstone_ttl: float = 300.0
    own_consumers: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.bucket_prefix, str) or not set(self.bucket_prefix) <= _PREFIX_CHARS:
            raise InvalidNameError(f"bucket_prefix may hold [-_a-zA-Z0-9] only: {self.bucket_prefix!r}")
        if isinstance(self.replicas, bool) or self.replicas not in (None, *range(1, 6)):
            raise InvalidValueError(f"replicas must be 1 to 5, or None: {self.replicas!r}")
        if self.storage not in (None, "file", "memory"):
            raise InvalidValueError(f'storage must be "file", "memory" or None: {self.storage!r}')
        # The server takes TTLs in whole seconds, from one on (ADR-43).
        ttl: object = self.tombstone_ttl
        if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 1 <= ttl <= MAX_TTL:
            raise InvalidValueError(f"tombstone_ttl must be 1 to {MAX_TTL:.0f} s (a year): {ttl!r}")


class NewStream:
    """The configuration of a stream to be made, adjusted to what the server refuses.

    Owners of leases register again after a loss, so memory is safe for them. Files are not: a server that
    was killed reads removed messages back from them (nats-server#8505).
    """

    def __init__(
        self,
        name: str,
        subjects: tuple[str, str],
        options: StreamOptions,
        *,
        server: tuple[int, int],
        leases: bool,
    ) -> None:
        self._options = options
        self._sizes = iter(_SIZES_BYTES)
        self.config: dict[str, Any] = {
            "name": name,
            "description": "natsdisc registry",
            "subjects": list(subjects) if server >= (2, 12) else [subjects[0]],
            "max_msgs_per_subject": 1,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "discard": "old",  # schedules refuse "new" (error 10052)
            "num_replicas": options.replicas or _REPLICAS_IN_A_CLUSTER,
            "storage": options.storage or ("memory" if leases else "file"),
            "max_consumers": MAX_CONSUMERS,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
        }
        if server >= (2, 11):
            self.config["allow_msg_ttl"] = True
        if server >= (2, 12):
            self.config["allow_msg_schedules"] = True

    def adjust(self, err_code: int) -> bool:
        """Change what the server refused with `err_code`, where the user left it open; say if it did."""
        config, options = self.config, self._options
        if err_code in _NO_PEERS and options.replicas is None and config["num_replicas"] > 1:
            config["num_replicas"] = 1
            return True
        if err_code == _SIZE_REQUIRED or (err_code in _SIZE_TOO_LARGE and config["max_bytes"] > 0):
            smaller = next(self._sizes, None)
            if smaller is not None:
                config["max_bytes"] = smaller
                return True
        if err_code in _NO_MEMORY and options.storage is None and config["storage"] == "memory":
            config.update(storage="file", max_bytes=-1)
            self._sizes = iter(_SIZES_BYTES)
            return True
        if err_code == _TOO_MANY_CONSUMERS and config["max_consumers"] > 0:
            config["max_consumers"] = -1  # the account allows fewer
            return True
        return False


def not_a_bucket(config: Mapping[str, Any], values: str) -> str | None:
    """Return why the stream holds no KV bucket with the subjects `values`; None if it does."""
    if values in (config.get("subjects") or ()) or config.get("mirror"):
        return None
    return f"it is not a KV bucket, for it does not hold {values}; rename it, or choose a bucket_prefix"


def data_loss(config: Mapping[str, Any], values: str) -> str | None:
    """Return which option of the stream can lose registrations, and how to change it; None if none can."""
    for option, is_safe, says in _RULES:
        value = config.get(option)
        if not is_safe(value):
            return says.format(value=value)
    if config.get("discard") == "new" and config.get("discard_new_per_subject"):
        return "it refuses a new value for a key that has one; set discard_new_per_subject to false"
    transform = config.get("subject_transform")
    if transform and (transform.get("src") or transform.get("dest")):
        return f"it renames the subjects that it stores ({values}); remove its subject transform"
    return None


_RULES: tuple[tuple[str, Any, str], ...] = (
    (
        "max_msgs_per_subject",
        lambda value: value == 1,
        "it keeps {value} values a key, not 1: an old value could come back when the newest expires; "
        "set its history to 1",
    ),
    (
        "max_age",
        lambda value: not value,
        "it removes values by their age (max_age), live instances too; set its max_age (TTL) to 0",
    ),
    (
        "max_msgs",
        lambda value: value is None or value <= 0,
        "it removes the oldest of more than {value} values (max_msgs); set its max_msgs to -1",
    ),
    (
        "retention",
        lambda value: value in (None, "limits"),
        "its retention is {value!r}: values go once they are read; make it anew with the retention limits",
    ),
    ("sealed", lambda value: not value, "it is sealed: nothing can be written to it; make it anew"),
    ("no_ack", lambda value: not value, "it confirms no write (no_ack); set no_ack to false"),
    (
        "allow_msg_counter",
        lambda value: not value,
        "it takes counters only (allow_msg_counter); make it anew without",
    ),
)


def extended(config: Mapping[str, Any], lease_subjects: str) -> dict[str, Any]:
    """Return `config` with what leases need, and with room for consumers."""
    return {
        **config,
        "subjects": sorted({*config["subjects"], lease_subjects}),
        "discard": "old",
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_msg_schedules": True,
        "max_consumers": max(int(config.get("max_consumers") or -1), MAX_CONSUMERS),
    }


def version_of(text: str) -> tuple[int, int]:
    """Return the first two numbers of a server's version, such as "2.12.8"."""
    major, minor = [*re.findall(r"\d+", text), "0", "0"][:2]
    return int(major), int(minor)


def check_version(text: str) -> None:
    """Raise UnsupportedServerError if a server of the version `text` knows no leases."""
    if version_of(text) < _FIRST_WITH_LEASES:
        raise UnsupportedServerError(
            f"leases need nats-server 2.12 or newer, this one is {text}; upgrade it, or use "
            "lease_ttl=None: an instance then stays until it is unregistered"
        )
