"""Transports for httpx that send requests to picked instances (extra `httpx`).

async with httpx.AsyncClient(transport=DiscoveryTransport(discovery)) as client:
    await client.get("http://checkout.cart.shop/orders/7")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any, Generic, TypeVar, cast

import httpx

from .. import sync
from ..balance import Balance
from ..discovery import Discovery
from ..errors import DiscoveryError, InvalidValueError
from ..model import EndpointInstance, EndpointQuery
from ..view import View
from .places import IDEMPOTENT, base_of, query_of

__all__ = ["DiscoveryTransport", "SyncDiscoveryTransport"]

_View = TypeVar("_View", View[EndpointInstance], sync.View[EndpointInstance])

# Nothing of the request was sent.
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout)
# The connection broke: the instance may have done what was asked, or not.
_BROKEN = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


class _Views(Generic[_View]):
    """The views of one transport, each opened with the first request to its place."""

    def __init__(
        self, open_view: Callable[[EndpointQuery], _View], hosts: Mapping[str, EndpointQuery] | None
    ) -> None:
        self._open: Callable[[EndpointQuery], _View] = open_view
        self._hosts = hosts or {}
        self._views: dict[EndpointQuery, _View] = {}

    def find(self, request: httpx.Request) -> _View:
        if request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(
                f"cannot send to {request.url}: only http and https", request=request
            )
        try:
            query = query_of(request.url.host, self._hosts)
            view = self._views.get(query)
            if view is None:
                view = self._views[query] = self._open(query)
            return view
        except ValueError as error:
            raise httpx.UnsupportedProtocol(str(error), request=request) from error
        except DiscoveryError as error:
            raise _unreachable(request, error) from error

    def pop_all(self) -> list[_View]:
        views, self._views = self._views, {}
        return list(views.values())


class _Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """The body of a request. It knows whether it was begun, and whether it can be sent again."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        self._stream = stream
        self._begun = False

    @property
    def is_whole(self) -> bool:
        return not self._begun or isinstance(self._stream, httpx.ByteStream)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._begun = True
        async for chunk in cast(httpx.AsyncByteStream, self._stream):
            yield chunk

    def __iter__(self) -> Iterator[bytes]:
        self._begun = True
        yield from cast(httpx.SyncByteStream, self._stream)

    async def aclose(self) -> None:
        await cast(httpx.AsyncByteStream, self._stream).aclose()

    def close(self) -> None:
        cast(httpx.SyncByteStream, self._stream).close()


class DiscoveryTransport(httpx.AsyncBaseTransport):
    """Sends requests to `http://endpoint.component.namespace/…` to an instance that a view picks.

    A request is sent again, to another instance, when the connection could not be made, or when it broke and
    the method is idempotent; never when a body that cannot be read twice was begun, and `attempts` times in
    all. An instance that failed so is reported to the view, which sets it aside.

    `wait` (seconds) is how long a request waits for an instance; `balance` picks (see `natsdisc.balance`);
    `hosts` names queries for other hosts. Requests go through `transport`, or an `httpx.AsyncHTTPTransport`
    with the `options`, such as `verify` and `limits`.

    The Host header stays as the request has it. With an https address, TLS checks the name in that address. A
    request for https never goes to an instance without TLS.
    Requests raise httpx's errors: ConnectError without an instance, UnsupportedProtocol for other hosts.

        async with httpx.AsyncClient(transport=DiscoveryTransport(discovery)) as client:
            await client.get("http://checkout.cart.shop/orders/7")
    """

    def __init__(
        self,
        discovery: Discovery,
        *,
        attempts: int = 3,
        wait: float = 5.0,
        balance: Balance | None = None,
        hosts: Mapping[str, EndpointQuery] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        self._attempts, self._wait = _checked(attempts, transport, options), wait
        self._views = _Views(lambda query: discovery.view(query, balance=balance), hosts)
        self._transport = transport if transport is not None else httpx.AsyncHTTPTransport(**options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` to an instance; httpx calls this."""
        view = self._views.find(request)
        body = _Body(request.stream)
        tried: list[EndpointInstance] = []
        for attempt in range(1, self._attempts + 1):
            async with AsyncExitStack() as busy:
                try:
                    instance = await busy.enter_async_context(view.using(timeout=self._wait, besides=tried))
                    sent = _readdressed(request, instance, body)
                except DiscoveryError as error:
                    raise _unreachable(request, error) from error
                try:
                    response = await self._transport.handle_async_request(sent)
                except _NOT_CONNECTED + _BROKEN as error:
                    tried.append(instance)
                    view.report_failure(instance.id)
                    if attempt == self._attempts or not _may_repeat(request, body, error):
                        raise
                    continue
                # It is busy until the response is read.
                done = busy.pop_all()
                stream = cast(httpx.AsyncByteStream, response.stream)
                response.stream = _Response(stream, done.aclose, partial(view.report_failure, instance.id))
                return response
        raise AssertionError("every attempt returns, raises or continues")

    async def aclose(self) -> None:
        """Close the connections and the views."""
        for view in self._views.pop_all():
            await view.aclose()
        await self._transport.aclose()


class SyncDiscoveryTransport(httpx.BaseTransport):
    """The same for `httpx.Client`, with a `natsdisc.sync.Discovery`.

    with httpx.Client(transport=SyncDiscoveryTransport(discovery)) as client:
        client.get("http://checkout.cart.shop/orders/7")
    """

    def __init__(
        self,
        discovery: sync.Discovery,
        *,
        attempts: int = 3,
        wait: float = 5.0,
        balance: Balance | None = None,
        hosts: Mapping[str, EndpointQuery] | None = None,
        transport: httpx.BaseTransport | None = None,
        **options: Any,
    ) -> None:
        self._attempts, self._wait = _checked(attempts, transport, options), wait
        self._views = _Views(lambda query: discovery.view(query, balance=balance), hosts)
        self._transport = transport if transport is not None else httpx.HTTPTransport(**options)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` to an instance; httpx calls this."""
        view = self._views.find(request)
        body = _Body(request.stream)
        tried: list[EndpointInstance] = []
        for attempt in range(1, self._attempts + 1):
            with ExitStack() as busy:
                try:
                    instance = busy.enter_context(view.using(timeout=self._wait, besides=tried))
                    sent = _readdressed(request, instance, body)
                except DiscoveryError as error:
                    raise _unreachable(request, error) from error
                try:
                    response = self._transport.handle_request(sent)
                except _NOT_CONNECTED + _BROKEN as error:
                    tried.append(instance)
                    view.report_failure(instance.id)
                    if attempt == self._attempts or not _may_repeat(request, body, error):
                        raise
                    continue
                done = busy.pop_all()
                stream = cast(httpx.SyncByteStream, response.stream)
                response.stream = _SyncResponse(stream, done.close, partial(view.report_failure, instance.id))
                return response
        raise AssertionError("every attempt returns, raises or continues")

    def close(self) -> None:
        """Close the connections and the views."""
        for view in self._views.pop_all():
            view.close()
        self._transport.close()


class _Response(httpx.AsyncByteStream):
    """The body of a response: its end ends the use of the instance, and a break is reported."""

    def __init__(
        self, stream: httpx.AsyncByteStream, done: Callable[[], Awaitable[None]], broke: Callable[[], None]
    ) -> None:
        self._stream, self._done, self._broke = stream, done, broke

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except _BROKEN:
            self._broke()
            raise

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            await self._done()


class _SyncResponse(httpx.SyncByteStream):
    """The same without asyncio."""

    def __init__(
        self, stream: httpx.SyncByteStream, done: Callable[[], None], broke: Callable[[], None]
    ) -> None:
        self._stream, self._done, self._broke = stream, done, broke

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except _BROKEN:
            self._broke()
            raise

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._done()


def _readdressed(request: httpx.Request, instance: EndpointInstance, body: _Body) -> httpx.Request:
    """Return `request` for `instance`: its headers stay, and its path goes below that of the address."""
    base = httpx.URL(base_of(instance, tls=request.url.scheme == "https"))
    path = base.raw_path.rstrip(b"/") + request.url.raw_path
    return httpx.Request(
        request.method,
        base.copy_with(raw_path=path),
        headers=request.headers,
        stream=body,
        extensions=request.extensions,
    )


def _may_repeat(request: httpx.Request, body: _Body, error: httpx.TransportError) -> bool:
    return body.is_whole and (isinstance(error, _NOT_CONNECTED) or request.method.upper() in IDEMPOTENT)


def _unreachable(request: httpx.Request, error: DiscoveryError) -> httpx.ConnectError:
    return httpx.ConnectError(f"cannot send {request.method} {request.url}: {error}", request=request)


def _checked(attempts: int, transport: object, options: Mapping[str, Any]) -> int:
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise InvalidValueError(f"attempts must be 1 or more: {attempts!r}")
    if transport is not None and options:
        raise InvalidValueError(f"give {', '.join(sorted(options))} to the transport that you pass")
    return attempts
