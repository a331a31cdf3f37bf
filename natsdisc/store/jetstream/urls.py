"""The servers to connect to, and how they are shown: without the credentials in their URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from ...errors import InvalidValueError

__all__ = ["parse_servers", "public_urls", "scrubbed"]

_DEFAULT_URL = "nats://127.0.0.1:4222"
_DEFAULT_PORT = 4222
_DEFAULT_VARIABLE = "NATS_URL"
_SCHEMES = ("nats", "tls", "ws", "wss")


def parse_servers(servers: str | Sequence[str] | None) -> list[str]:
    """Return the URLs of `servers`: a list, one URL, several separated by commas, or the default.

    Without any, those of the environment variable NATS_URL count, else nats://127.0.0.1:4222.
    Raises InvalidValueError for what is no URL of a NATS server.

    >>> parse_servers("nats://a:4222, nats://b:4222")
    ['nats://a:4222', 'nats://b:4222']
    """
    if servers is None:
        servers = os.environ.get(_DEFAULT_VARIABLE, "").strip() or _DEFAULT_URL
    if not isinstance(servers, Sequence) or not all(isinstance(one, str) for one in servers):
        raise InvalidValueError(f"servers must be a URL or a list of URLs, not {servers!r:.80}")
    given = [servers] if isinstance(servers, str) else list(servers)
    urls = [url.strip() for text in given for url in text.split(",") if url.strip()]
    if not urls:
        raise InvalidValueError("no server URL was given: give one, such as nats://127.0.0.1:4222")
    return [_checked_url(url, public_urls(given)) for url in urls]


def _checked_url(url: str, public: str) -> str:
    """Return `url` with the scheme and the port that nats-py, in a list, does not add."""
    scheme, separator, _ = url.partition("://")
    if separator and scheme not in _SCHEMES:
        raise InvalidValueError(f"a NATS URL begins with {', '.join(_SCHEMES)}, not {scheme!r}: {public}")
    good = False
    with suppress(ValueError):
        url = url if separator else f"nats://{url}"
        parts = urlsplit(url)
        if parts.port is None and parts.scheme in ("nats", "tls"):
            url = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{_DEFAULT_PORT}").geturl()
        good = bool(parts.hostname) and "@" not in f"{parts.path}{parts.query}{parts.fragment}"
    if not good:
        raise InvalidValueError(
            f"not the URL of a NATS server: {public}; if the user name or password holds one of / ? # , "
            "give them as user= and password="
        )
    return url


def scrubbed(text: str, urls: list[str], options: Mapping[str, Any]) -> str:
    """Return `text` without the passwords and tokens that a library below may have put into it."""
    secrets = [options.get("password"), options.get("token")]
    for url in urls:
        credentials, at, _ = url.rpartition("://")[2].rpartition("@")
        if at:
            secrets += [credentials, credentials.partition(":")[2]]
    for secret in secrets:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return text


def public_urls(servers: str | Sequence[str]) -> str:
    """Return the URLs without the credentials they may hold, whatever characters those have."""
    text = servers if isinstance(servers, str) else ", ".join(servers)
    urls = re.split(r",\s*(?=[a-z]+://)", text)
    shown = []
    for url in urls:
        scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
        shown.append(f"{scheme}{separator}{rest.rpartition('@')[2]}")
    return ", ".join(shown)
