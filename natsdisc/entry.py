"""An instance as an entry of a bucket: where it lies, and what lies there."""

from __future__ import annotations

from . import keys, wire
from .errors import InvalidValueError
from .model import Instance, InstanceId, Kind, kind_of

__all__ = ["BUCKETS", "bucket_of", "decode"]

# The seed's buckets `v1/instances` and `v1/mdc`: a KV bucket's name has no slash (ADR-8).
BUCKETS = {Kind.ENDPOINT: "v1_instances", Kind.MODEL: "v1_mdc"}
# The buckets of Dynamo 1.6 that its first versions, and the seed, did not have.
BUCKETS |= {Kind.EVENT_CHANNEL: "v1_event_channels", Kind.EVENT_SOURCE: "v1_event_sources"}


def bucket_of(id: InstanceId) -> str:
    """The name of the bucket that `id` lives in."""
    return BUCKETS[kind_of(id)]


def decode(kind: Kind, key: str, value: bytes) -> Instance:
    """The instance in an entry; raises InvalidValueError when key and value do not name the same one."""
    place = keys.place_of(kind, key)
    if place is None:
        raise InvalidValueError("its key is not one natsdisc writes")
    # The key is the identity: whoever may write one key must not speak for another.
    return wire.loads_at(place, kind, value)
