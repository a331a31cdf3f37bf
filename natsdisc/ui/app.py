"""The ASGI application: the page, its messages, one instance, and the actions of an operator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from natsdisc import (
    ConflictError,
    Discovery,
    DiscoveryError,
    EndpointInstance,
    Kind,
    ModelInstance,
    PermissionDeniedError,
    Query,
    Status,
    endpoints,
    models,
)
from natsdisc.keys import parse_key
from natsdisc.model import Instance

from .guard import Access, Guard
from .live import Live
from .rows import row_of, value_text
from .stream import events

__all__ = ["create_app"]

_STATIC = Path(__file__).parent / "static"
_MOST_LEASES, _LEASE_PATIENCE_S = 100, 2.0
_STATUS_OF_ACTION = {"drain": Status.DRAINING, "disable": Status.DISABLED, "enable": Status.SERVING}


def create_app(discovery: Discovery, access: Access | None = None) -> Starlette:
    """Return an ASGI application that shows the registry of `discovery`.

    The application keeps its views open between the start and the end of its lifespan: it must be the
    application of the server, and not mounted below another one. `access` says who may open it, and which
    actions are offered; without it the page is read-only and answers to this machine's own names.

    >>> app = create_app(discovery, Access(allow=frozenset({"drain"})))  # doctest: +SKIP
    """
    live = Live(discovery)
    access = access or Access()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with live.running():
            yield

    async def page(request: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    async def stream(request: Request) -> Response:
        return StreamingResponse(events(live), media_type="text/event-stream")

    async def settings(request: Request) -> Response:
        return _json({"allow": sorted(access.allow)})

    async def instance(request: Request) -> Response:
        found = _find(live, request)
        if found is None:
            return _json({"error": "it is not registered (any more)"}, 404)
        return _json({**row_of(found), "facts": await _facts(live, found), "value": value_text(found)})

    async def act(request: Request) -> Response:
        action = request.path_params["action"]
        if action not in access.allow:
            return _json({"error": f"not allowed: start natsdisc ui with --allow {action}"}, 403)
        found = _find(live, request)
        if found is None:
            return _json({"error": "it is not registered (any more)"}, 404)
        try:
            if action == "prune":
                await discovery.unregister(found)
            elif isinstance(found, EndpointInstance):
                await discovery.set_status(found, _STATUS_OF_ACTION[action])
            else:
                return _json({"error": "only endpoint instances have a status"}, 400)
        except ConflictError as error:
            return _json({"error": str(error)}, 409)
        except PermissionDeniedError as error:
            return _json({"error": str(error)}, 403)
        except DiscoveryError as error:
            return _json({"error": str(error)}, 503)
        return _json({})

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/api/stream", stream),
            Route("/api/settings", settings),
            Route("/api/instances/{kind}/{key:path}", instance, methods=["GET"]),
            Route("/api/{action}/{kind}/{key:path}", act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(Guard, access=access)],
        lifespan=lifespan,
    )
    app.state.live = live
    return app


def _find(live: Live, request: Request) -> Instance | None:
    kind = request.path_params["kind"]
    if kind not in set(Kind):
        return None
    id = parse_key(Kind(kind), request.path_params["key"])
    return None if id is None else live.find(id)


async def _facts(live: Live, instance: Instance) -> list[tuple[str, str]]:
    """Return what is known about an instance beside its value, as names and texts."""
    arrived = live.arrived(instance.id)
    since = time.strftime("%H:%M:%S", time.localtime(arrived)) if arrived else "before this page's server"
    facts = [("seen since", since)]
    query: Query
    if isinstance(instance, EndpointInstance):
        query = endpoints(instance.namespace, instance.component, instance.endpoint)
    elif isinstance(instance, ModelInstance):
        query = models(instance.namespace, instance.component, instance.endpoint)
    else:
        return facts
    if live.count(instance) > _MOST_LEASES:
        return facts  # each lease is one question to the server
    try:
        async with asyncio.timeout(_LEASE_PATIENCE_S):
            left = (await live.discovery.leases(query)).get(instance.id)
    except (TimeoutError, DiscoveryError):
        return facts  # a reader may not look at leases
    facts.append(("lease", "none: it stays" if left is None else f"{left:.1f} s left"))
    return facts


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
