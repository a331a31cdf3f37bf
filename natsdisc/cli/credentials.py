"""The secrets that this command was given: kept out of what it writes, and out of programs that it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

import click

__all__ = ["hidden", "hide", "read_secret", "split_url", "without_secrets"]

_MASK = "***"
# A shorter one cannot be told from other text; it would hide half of every message.
_SHORTEST = 3
# All that stands before the last `@` of a URL. A password may hold `@`, `/`, `:` and quotes.
_USERINFO = re.compile(r"(?<=://)(?:(?!,\s*\w+://)\S)*@")
_LONGEST_FILE = 64 * 1024  # bytes
# A program that `register -- COMMAND` runs does not get these, unless it is asked for.
_SECRETS = ("CREDS", "KEY", "TLSKEY", "NKEY", "SIGNER", "PASSWORD", "PASSWORD_FILE", "TOKEN", "TOKEN_FILE")
_SECRET_VARIABLES = {f"{prefix}_{name}" for prefix in ("NATS", "NATSDISC") for name in _SECRETS}
_URL_VARIABLES = ("NATS_URL", "NATSDISC_SERVER")

_known: set[str] = set()


def hide(secret: str | None) -> None:
    """Keep `secret` out of everything that `hidden` is asked about from now on."""
    if secret is not None and len(secret) >= _SHORTEST:
        _known.update((secret, unquote(secret)))


def hidden(text: str) -> str:
    """Return `text` without the secrets that are known, and without the credentials in its URLs."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return _USERINFO.sub(f"{_MASK}@", text)


def read_secret(path: str, option: str) -> str:
    """Return the first line of the file `path`, without its line break. Raises click.UsageError."""
    try:
        with open(path, encoding="utf-8") as file:
            secret = file.read(_LONGEST_FILE).split("\n", 1)[0].rstrip("\r")
    except (OSError, ValueError) as error:
        raise click.UsageError(f"The file {path} of {option} cannot be read: {error}") from error
    if not secret:
        raise click.UsageError(f"The file {path} of {option} is empty: its first line is the secret.")
    return secret


def split_url(url: str) -> tuple[str, str | None, str | None]:
    """Return a server's URL, and the user and password (or the token, alone) that stood in it.

    Both are taken as they stand, up to the last `@`. Parsers of URLs take a `/` or a second `@` for the end
    of the password, and print the rest of it in their errors.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    userinfo, at, place = rest.rpartition("@")
    if not at:
        return url, None, None
    user, colon, password = userinfo.partition(":")
    return f"{scheme}{separator}{place}", user, password if colon else None


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the credentials of NATS, for a program that has its own business."""
    kept = {name: value for name, value in environment.items() if name not in _SECRET_VARIABLES}
    for name in _URL_VARIABLES:
        if "@" in kept.get(name, ""):
            urls = re.split(r",\s*(?=\w+://)", kept[name])
            kept[name] = ",".join(split_url(url)[0] for url in urls)
    return kept
