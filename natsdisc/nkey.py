"""NKeys: seeds and public keys of users as bytes, and Ed25519 below them. No error shows a seed.

nkeys and PyNaCl are imported by the first call.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from .errors import InvalidValueError

__all__ = ["Sign", "load_nacl", "matches", "public_bytes", "sign_with_seed"]

# Takes bytes, and returns a public NKey and the signature.
Sign: TypeAlias = Callable[[bytes], tuple[str, bytes]]

_PUBLIC_KEY = re.compile(r"U[A-Z2-7]{55}\Z")
_SEED = re.compile(rb"S[A-Z2-7]{57}\Z")
_LIKE_A_SEED = re.compile(r"S[A-Z2-7]{20}")
_USER_SEED = b"SU"


def sign_with_seed(secret: str | bytes | os.PathLike[str]) -> tuple[Sign, str]:
    nkeys = _nkeys()
    given = secret.encode() if isinstance(secret, str) else secret
    if isinstance(given, bytes) and _SEED.match(given.strip()):
        seed, source = given.strip(), "the signer's seed"
    elif isinstance(given, bytes) and (not isinstance(secret, str) or b"\n" in given.strip()):
        seed, source = _seed_in(given, "the signer"), "the signer's seed"
    else:
        assert not isinstance(secret, bytes)
        seed, source = _read_seed(secret), f"the seed in {secret!s:.200}"
    if not seed.startswith(_USER_SEED):
        raise InvalidValueError(f"{source} is not that of a user: make one with `nk -gen user`")
    try:
        raw = base64.b32decode(seed + b"=" * (-len(seed) % 8))
        if nkeys.crc16(raw[:-2]).to_bytes(2, "little") != raw[-2:]:
            raise ValueError
        pair = nkeys.from_seed(seed)
        public_key = pair.public_key.decode("ascii")
    except Exception:
        # The cause would show the seed.
        raise InvalidValueError(f"{source} is damaged: its checksum does not match") from None
    return lambda data: (public_key, pair.sign(data)), public_key


def _read_seed(path: str | os.PathLike[str]) -> bytes:
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        # A seed with a typing error is taken for a path, which must not be shown.
        name = "" if _LIKE_A_SEED.search(str(path)) else f" {path!s:.200}"
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise InvalidValueError(
            f"cannot read the signer's seed from the file{name}: {reason}; signer must be a seed (SU…) or "
            "the path of a file with one"
        ) from None
    return _seed_in(content, f"the file {path!s:.200}")


def _seed_in(content: bytes, source: str) -> bytes:
    for line in content.split():
        if _SEED.match(line):
            return line
    raise InvalidValueError(f"{source} holds no seed of a user NKey (SU and 56 more letters and digits)")


def public_bytes(public_key: object, where: str) -> bytes:
    """Return the 32 bytes of a public user NKey; raises InvalidValueError, which shows no seed."""
    if not isinstance(public_key, str) or not _PUBLIC_KEY.match(public_key):
        is_secret = isinstance(public_key, (str, bytes)) and str(public_key).lstrip("b'\" ")[:1] in ("S", "P")
        shown = "a secret" if is_secret else f"{public_key!r:.80}"
        raise InvalidValueError(f"the key {where} must be a public user NKey (U and 55 more), not {shown}")
    try:
        raw = base64.b32decode(public_key)
    except binascii.Error:
        raw = b""
    if not raw or _nkeys().crc16(raw[:-2]).to_bytes(2, "little") != raw[-2:]:
        raise InvalidValueError(f"the key {where} is damaged: the checksum of {public_key} does not match")
    return raw[1:-2]


def matches(nacl: Any, public_key: bytes, data: bytes, signature: bytes) -> bool:
    try:
        nacl.crypto_sign_open(signature + data, public_key)
    except Exception:  # BadSignatureError, and ValueError for what is no point of the curve
        return False
    return True


def _nkeys() -> ModuleType:
    try:
        import nkeys
    except ImportError as error:
        raise InvalidValueError(_MISSING) from error
    module: ModuleType = nkeys
    return module


def load_nacl() -> ModuleType:
    try:
        from nacl import bindings
    except ImportError as error:
        raise InvalidValueError(_MISSING) from error
    module: ModuleType = bindings
    return module


_MISSING = "signer and trusted need nkeys, which is not installed: pip install 'natsdisc[nkeys]'"
