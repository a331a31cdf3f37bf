"""Access to the page: which hosts, with which token, and which actions."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from natsdisc import InvalidValueError

__all__ = ["ACTIONS", "Access", "Guard"]

ACTIONS = ("drain", "disable", "enable", "prune")
_COOKIE = "natsdisc_token"
_HEADER = "X-Natsdisc"
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Access:
    """The rules for opening the page, and for acting on it.

    `allow` names the actions of `ACTIONS` that are offered; none by default. With a `token` a browser must
    show it once, as `/?token=…`. `hosts` are the names under which the page may be opened; an empty one
    allows any. They keep a page of another site from reaching this one by a name that it made up.
    """

    allow: frozenset[str] = frozenset()
    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})

    def __post_init__(self) -> None:
        if self.token is not None and not self.token:
            raise InvalidValueError("the token of the page must not be empty; None is no token")
        if isinstance(self.allow, str) or not set(self.allow) <= set(ACTIONS):
            raise InvalidValueError(f"allow is a set of {', '.join(ACTIONS)}, not {self.allow!r}")


class Guard:
    """ASGI middleware that refuses what `access` does not allow, and adds the headers of a safe page."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refuse(Request(scope))

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers[name] = value
            await send(message)

        await (refused or self._app)(scope, receive, send_safe)

    def _refuse(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if self._access.hosts and _hostname(host) not in self._access.hosts:
            return PlainTextResponse(f"this page is not served as {host!r}; see --name", 421)
        if request.method not in ("GET", "HEAD") and not _is_same_site(request.headers):
            return PlainTextResponse("refused: the request comes from another page", 403)
        return self._check_token(request)

    def _check_token(self, request: Request) -> Response | None:
        token = self._access.token
        if token is None:
            return None
        given = request.query_params.get("token")
        if given is not None and request.method == "GET" and _same(given, token):
            answer = RedirectResponse("./", 303)
            answer.set_cookie(_COOKIE, token, httponly=True, samesite="strict")
            return answer
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        shown = bearer if scheme.lower() == "bearer" else request.cookies.get(_COOKIE, "")
        if _same(shown, token):
            return None
        return PlainTextResponse("this page wants its token: open /?token=… as `natsdisc ui` printed it", 401)


def _hostname(host: str) -> str:
    """Return the name in a Host header, or an empty text for one that is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _is_same_site(headers: Headers) -> bool:
    """A form of another site cannot send a header of its own."""
    site = headers.get("sec-fetch-site")
    return headers.get(_HEADER) == "1" and site in (None, "same-origin", "none")
