"""Signatures of registrations with NKeys: proof that a value was written by a process that readers trust.

The signature stands in a header beside the value, whose bytes stay as they are. It covers the bucket, the
key, the value, the owner of the registration, the time of signing and the end of its validity. nkeys is
imported only where a key is used: everything else works without it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from . import keys
from .errors import InvalidValueError
from .nkey import Sign, load_nacl, matches, public_bytes, sign_with_seed

__all__ = ["SIGNATURE", "Secret", "Signature", "Signer", "Trust", "UntrustedError", "canonical"]

# The header of a signed value.
SIGNATURE = "Natsdisc-Signature"

Secret: TypeAlias = str | bytes | os.PathLike[str] | Sign

# Nothing else that a key signs begins like this.
_DOMAIN = b"natsdisc registration\x00\x01"
_VERSION = "1"
_OWNER = re.compile(r"[-_.a-zA-Z0-9]{1,64}\Z")
# One text a signature: without leading zeros, and without bits that mean nothing at the end.
_TEXT = re.compile(
    r"1 ([-_.a-zA-Z0-9]{1,64}) (0|[1-9][0-9]{0,14}) (0|[1-9][0-9]{0,14}) (U[A-Z2-7]{55}) "
    r"([-_a-zA-Z0-9]{85}[AQgw])\Z"
)
_SIGNATURE_BYTES = 64
_EVERYWHERE = "*"
# The ends of the names of the buckets for events; a registry's prefix may stand before them.
_EVENTS = ("v1_event_channels", "v1_event_sources")
# Signatures that were verified once are not verified again by the next snapshot. A digest takes 100 bytes.
_MOST_VERIFIED = 100_000


class UntrustedError(InvalidValueError):
    """A value that no trusted key has signed, or not for this key of this bucket."""


class Signature(NamedTuple):
    """The header of a signed value. Times are milliseconds since 1970, by the clock of the signer.

    `until` is the end of its validity, 0 for a registration without a lease, which has none.
    """

    owner: str
    time: int
    until: int
    public_key: str
    signature: bytes

    def __str__(self) -> str:
        encoded = base64.urlsafe_b64encode(self.signature).rstrip(b"=").decode("ascii")
        return f"{_VERSION} {self.owner} {self.time} {self.until} {self.public_key} {encoded}"

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Return the signature in the header `text`; raises UntrustedError when there is none."""
        found = _TEXT.match(text)
        if found is None:
            raise UntrustedError("its signature is malformed")
        owner, signed, until, public_key, encoded = found.groups()
        return cls(owner, int(signed), int(until), public_key, base64.urlsafe_b64decode(encoded + "=="))


def canonical(
    bucket: str, key: str, value: bytes, *, owner: str, time: int, until: int, public_key: str
) -> bytes:
    """Return the bytes that are signed.

    Every field is preceded by its length, so no two registrations have the same bytes.
    """
    fields = (bucket.encode(), key.encode(), value, owner.encode(), b"%d" % time, b"%d" % until)
    parts = [_DOMAIN]
    for field in (*fields, public_key.encode()):
        parts += (len(field).to_bytes(8, "big"), field)
    return b"".join(parts)


class Signer:
    """A key that signs registrations.

    `secret` is the seed of a user NKey (`SU…`, as text or bytes), the path of a file that holds one (a
    credentials file too), or a function that takes bytes and returns a public NKey (`U…`) and the 64 bytes of
    an Ed25519 signature. The function runs in the event loop, so it has to be quick.

    Raises InvalidValueError for anything else, and when nkeys is not installed. No error shows a seed.

    Example: `Signer("/run/secrets/cart.nk")`
    """

    def __init__(self, secret: Secret) -> None:
        self._nacl = load_nacl()
        self._last_time = 0
        if isinstance(secret, (str, bytes, os.PathLike)):
            self._signed, self.public_key = sign_with_seed(secret)
        elif callable(secret):
            self._signed = partial(_call, secret, self._nacl)
            # Signing something harmless shows the public key, and mistakes before a registration does.
            self.public_key = self._signed(_DOMAIN)[0]
        else:
            raise InvalidValueError(
                "signer must be the seed of a user NKey, the path of a file with one, or a function, not "
                f"{type(secret).__name__}"
            )

    def next_time(self, now: float, *, after: int = 0) -> int:
        """Return the time (milliseconds since 1970) of the next signature, at `now` (seconds since 1970).

        It is later than `after`, and than every time that was returned before.
        """
        self._last_time = max(int(now * 1000), self._last_time + 1, after + 1)
        return self._last_time

    def sign(self, bucket: str, key: str, value: bytes, *, owner: str, time: int, until: int) -> Signature:
        """Return the signature of `value` under `key` in `bucket`, with the fields of Signature.

        Raises InvalidValueError for an owner that cannot stand in a header, and for a function that does not
        sign.
        """
        if not _OWNER.match(owner):
            raise InvalidValueError(
                f"cannot sign {key} in bucket {bucket} for the owner {owner!r:.80}: an owner has 1 to 64 of "
                "[-_.a-zA-Z0-9]"
            )
        data = canonical(bucket, key, value, owner=owner, time=time, until=until, public_key=self.public_key)
        public_key, signature = self._signed(data)
        if public_key != self.public_key:
            raise InvalidValueError(
                f"the signer function used {public_key} for {key}, and {self.public_key} before; make a new "
                "Discovery for a new key"
            )
        return Signature(owner, time, until, public_key, signature)

    def __repr__(self) -> str:
        return f"<Signer {self.public_key}>"


class Trust:
    """The keys whose registrations are believed, by namespace.

    `trusted` maps a namespace, or `"*"` for every namespace, to public user NKeys (`U…`). Several keys of a
    namespace are valid side by side, which is how a key is replaced. Where no key is named for a namespace,
    nothing in it is believed. `own` is one more key that is believed everywhere.

    Raises InvalidValueError for anything else, and when nkeys is not installed.

    Example: `Trust({"shop": ["UA…"], "*": ["UB…"]})`
    """

    def __init__(self, trusted: Mapping[str, Iterable[str]], *, own: str | None = None) -> None:
        self._nacl = load_nacl()
        self._keys: dict[str, dict[str, bytes]] = {}
        self._everywhere: dict[str, bytes] = {}
        self._verified: dict[bytes, None] = {}
        if not isinstance(trusted, Mapping):
            raise InvalidValueError(
                f"trusted must map namespaces to public NKeys, not be {type(trusted).__name__}: "
                'for example {"shop": ["U…"]}'
            )
        for namespace, public_keys in trusted.items():
            self._add(namespace, public_keys)
        if own is not None:
            self._everywhere[own] = public_bytes(own, "of the signer")
        if not self._everywhere and not any(self._keys.values()):
            raise InvalidValueError("trusted names no key: every registration would be ignored")

    def _add(self, namespace: object, public_keys: object) -> None:
        if not isinstance(namespace, str) or not namespace:
            raise InvalidValueError(f"trusted must map namespaces, which are texts, not {namespace!r:.80}")
        if isinstance(public_keys, (str, bytes)) or not isinstance(public_keys, Iterable):
            raise InvalidValueError(f"trusted[{namespace!r}] must be a list of public NKeys")
        where = f"in trusted[{namespace!r}]"
        raw = {str(public_key): public_bytes(public_key, where) for public_key in public_keys}
        if namespace == _EVERYWHERE:
            self._everywhere.update(raw)
        else:
            self._keys.setdefault(keys.to_token(namespace), {}).update(raw)

    def allows(self, bucket: str, key: str, public_key: str) -> bool:
        """Return whether `public_key` may sign what lies under the dotted `key` of `bucket`."""
        return self._find(bucket, key, public_key) is not None

    def names(self, bucket: str, key: str) -> bool:
        """Return whether any NKey is named for the namespace of the dotted `key` of `bucket`, or for all."""
        return bool(self._everywhere) or bool(self._keys.get(_namespace(bucket, key)))

    def verify(self, bucket: str, key: str, value: bytes, header: str | None) -> Signature:
        """Return the signature of a value, as it stands in `header`.

        Raises UntrustedError when there is none, when its key is not trusted for the namespace of `key`, or
        when it does not match. Its times are not looked at.
        """
        if header is None:
            raise UntrustedError("it has no signature")
        found = Signature.parse(header)
        raw = self._find(bucket, key, found.public_key)
        if raw is None:
            raise UntrustedError(
                f"it is signed with {found.public_key}, which is not trusted for its namespace"
            )
        data = canonical(
            bucket,
            key,
            value,
            owner=found.owner,
            time=found.time,
            until=found.until,
            public_key=found.public_key,
        )
        digest = hashlib.blake2b(data + found.signature, digest_size=32).digest()
        if digest not in self._verified:
            if not matches(self._nacl, raw, data, found.signature):
                raise UntrustedError("its signature does not match its bucket, key, value and owner")
            if len(self._verified) >= _MOST_VERIFIED:
                self._verified.clear()
            self._verified[digest] = None
        return found

    def _find(self, bucket: str, key: str, public_key: str) -> bytes | None:
        raw = self._everywhere.get(public_key)
        if raw is not None:
            return raw
        named = self._keys.get(_namespace(bucket, key))
        return None if named is None else named.get(public_key)

    def __repr__(self) -> str:
        namespaces = len(self._keys) + bool(self._everywhere)
        return f"<Trust in {namespaces} namespaces>"


def _namespace(bucket: str, key: str) -> str:
    """Return the token of the namespace that the dotted `key` of `bucket` lies in.

    The key of an event begins with the word `namespace`. In a bucket of events, a key that does not lies in
    no namespace; the empty text, which no namespace has, stands for that.
    """
    first, _, rest = key.partition(".")
    if not bucket.endswith(_EVENTS):
        return first
    return rest.partition(".")[0] if first == "namespace" else ""


def _call(function: Sign, nacl: Any, data: bytes) -> tuple[str, bytes]:
    """Have a user's function sign `data`, and check what it returns."""
    try:
        public_key, signature = function(data)
    except Exception as error:
        # The text of the error may hold a secret.
        raise InvalidValueError(f"the signer function failed with {type(error).__name__}") from error
    if isinstance(public_key, bytes):
        public_key = public_key.decode("ascii", "replace")
    if not isinstance(public_key, str) or not isinstance(signature, (bytes, bytearray)):
        raise InvalidValueError("the signer function must return a public NKey and a signature in bytes")
    raw = public_bytes(public_key, "of the signer function")
    if len(signature) != _SIGNATURE_BYTES or not matches(nacl, raw, data, bytes(signature)):
        raise InvalidValueError(f"the signer function returned no Ed25519 signature of {public_key}")
    return public_key, bytes(signature)
