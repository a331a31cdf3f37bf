"""A lifespan for Starlette and FastAPI that registers a service, and drains it (extra `starlette`).

app = FastAPI(lifespan=DiscoveryLifespan(EndpointSpec("shop", "cart", "pay", transport=Transport.http(url))))
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse

from .. import log
from ..connect import connect
from ..discovery import Discovery
from ..errors import DiscoveryError, InvalidValueError, StoreUnavailableError
from ..model import EndpointSpec

__all__ = ["DiscoveryLifespan"]

_log = log.logger(__name__)

# Seconds between attempts to connect to our own address, and of one such attempt at most.
_PROBE_INTERVAL, _PROBE_TIMEOUT = 0.05, 1.0
# Seconds after which an address that accepts nothing is probably not the one of this server.
_PROBE_PATIENCE = 15.0
# Seconds that `ready` waits: Kubernetes and most load balancers give a probe one second.
_CHECK_S = 0.8


class DiscoveryLifespan:
    """Registers `specs` while the application serves; give it as `lifespan=` to FastAPI or Starlette.

    The application starts at once, also while NATS is away: connecting and registering go on in the
    background. Each spec is registered when its http address accepts connections, since a server begins to
    listen after the lifespan has begun. If this process cannot connect to that address itself, name another
    one as `listening="127.0.0.1:8000"`, or give `listening=""` to register at once.

    On SIGTERM the instances drain for `drain` seconds, while the server goes on serving. Then they are
    unregistered, and the server gets the signal. A second SIGTERM ends the drain. Every worker process
    registers itself. `lifespan` is a lifespan of your own, which runs inside.

    `servers` and the options are those of `natsdisc.connect`, `wait` being without end unless given.

        lifespan = DiscoveryLifespan(EndpointSpec("shop", "cart", "pay", transport=Transport.http(url)))
        app = FastAPI(lifespan=lifespan)
        app.add_route("/ready", lifespan.ready)
    """

    def __init__(
        self,
        *specs: EndpointSpec,
        servers: str | Sequence[str] | None = None,
        drain: float = 1.0,
        listening: str | None = None,
        lifespan: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
        **options: Any,
    ) -> None:
        for spec in specs:
            if not isinstance(spec, EndpointSpec):
                raise InvalidValueError(f"a lifespan registers endpoints, not {type(spec).__name__}")
        self._specs = specs
        self._servers = servers
        self._drain = drain
        self._listening = listening
        self._inner = lifespan
        self._options = {"wait": math.inf, **options}
        self._reset()

    def _reset(self) -> None:
        self._discovery: Discovery | None = None
        self._error: DiscoveryError | None = None
        self._announced = 0
        self._starting: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    @property
    def discovery(self) -> Discovery:
        """The Discovery of this process, for views and calls of the application's own.

        Raises StoreUnavailableError until it is connected.
        """
        if self._discovery is None:
            raise StoreUnavailableError(
                f"not connected to NATS yet: {self._error or 'connecting goes on in the background'}"
            )
        return self._discovery

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[Any]:
        """Run for as long as the application does; Starlette calls this."""
        self._reset()
        self._starting = asyncio.create_task(self._start())
        restore = self._drain_on_sigterm()
        try:
            if self._inner is None:
                yield
            else:
                async with self._inner(app) as state:
                    yield state
        finally:
            restore()
            await self._leave(0.0)
            if self._leaving is not None:
                await asyncio.wait((self._leaving,))

    async def ready(self, request: Request) -> JSONResponse:
        """Answer a readiness probe: 200 when every endpoint is registered and all is well, else 503.

        `reason` in the answer says why not. It takes 0.8 s at most, within the second that probes wait.
        """
        reason = await self._why_not_ready()
        return JSONResponse(
            {"ready": reason is None, **({} if reason is None else {"reason": reason})},
            status_code=200 if reason is None else 503,
        )

    async def _why_not_ready(self) -> str | None:
        if self._leaving is not None:
            return "draining"
        if self._error is not None:
            return str(self._error)
        if self._discovery is None:
            return "not connected to NATS yet"
        if self._announced < len(self._specs):
            return "not registered yet"
        try:
            await self._discovery.check(timeout=_CHECK_S)
        except DiscoveryError as error:
            return "draining" if self._leaving is not None else str(error)
        return None

    async def _start(self) -> None:
        """Connect, and announce each endpoint when its server listens."""
        try:
            self._discovery = await connect(self._servers, **self._options)
        except DiscoveryError as error:
            self._refuse("connecting to NATS failed, so nothing is registered: %s", error)
            return
        await asyncio.gather(*(self._announce(self._discovery, spec) for spec in self._specs))

    async def _announce(self, discovery: Discovery, spec: EndpointSpec) -> None:
        await _until_listening(self._address(spec))
        try:
            discovery.announce(spec)
        except DiscoveryError as error:
            place = f"{spec.namespace}/{spec.component}/{spec.endpoint}"
            self._refuse(f"registering {place} failed: %s", error)
        else:
            self._announced += 1

    def _refuse(self, message: str, error: DiscoveryError) -> None:
        """Log an error that no second attempt mends, and keep it for `ready`."""
        self._error = error
        _log.error(message, error, extra=log.fields("not_registered", error=error))

    def _address(self, spec: EndpointSpec) -> str:
        """Return the host and port that must accept connections first; empty for none."""
        if self._listening is not None:
            return self._listening
        if spec.transport.kind != "http" or not isinstance(spec.transport.address, str):
            return ""
        place = urlsplit(spec.transport.address)
        host = place.hostname or "127.0.0.1"
        port = place.port or (443 if place.scheme == "https" else 80)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _leave(self, drain: float) -> None:
        """Register nothing more, and close the Discovery."""
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.wait((starting,))
        if self._discovery is not None:
            await self._discovery.close(drain=drain)

    def _drain_on_sigterm(self) -> Callable[[], None]:
        """Handle SIGTERM before the server does; return a function that gives it back to the server."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None  # as in Starlette's TestClient: only the main thread has signals
        loop, number = asyncio.get_running_loop(), signal.SIGTERM
        before = signal.getsignal(number)
        handles = True

        def restore() -> None:
            nonlocal handles
            if handles:
                handles = False
                loop.remove_signal_handler(number)
                signal.signal(number, before if before is not None else signal.SIG_DFL)

        def pass_on() -> None:
            if handles:
                restore()
                os.kill(os.getpid(), number)

        async def leave() -> None:
            try:
                await self._leave(self._drain)
            finally:
                pass_on()

        def received() -> None:
            if self._leaving is None:
                self._leaving = loop.create_task(leave())
            else:
                pass_on()

        try:
            loop.add_signal_handler(number, received)
        except NotImplementedError:  # Windows
            return lambda: None
        return restore


async def _until_listening(address: str) -> None:
    """Wait until `address` accepts a connection."""
    if not address:
        return
    host, _, port = address.rpartition(":")
    waited, told = 0.0, False
    while True:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, TimeoutError) as error:
            if waited >= _PROBE_PATIENCE and not told:
                told = True
                _log.warning(
                    "not registered yet, because %s accepts no connection (%s); if this process cannot "
                    "connect to that address, name another one with listening=",
                    address,
                    error,
                    extra=log.fields("not_listening", error=error),
                )
            await asyncio.sleep(_PROBE_INTERVAL)
            waited += _PROBE_INTERVAL
        else:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            return
