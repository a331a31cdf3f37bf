"""The lifespan for Starlette and FastAPI; the example under load is in test_examples, test_httpx."""

from __future__ import annotations

import asyncio
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette

import natsdisc
from natsdisc import EndpointSpec, Transport, endpoints
from natsdisc.integrations.starlette import DiscoveryLifespan
from natsdisc.server import NatsServer
from tests.programs import PATIENCE
from tests.rig import eventually
from tests.server.load import free_port, web

SHOP = endpoints("shop")


def spec(address: str = "http://127.0.0.1:1") -> EndpointSpec:
    return EndpointSpec("shop", "cart", "web", transport=Transport.http(address))


@pytest.fixture
def prefix() -> str:
    return f"web{secrets.token_hex(6)}"


async def ready(lifespan: DiscoveryLifespan) -> tuple[int, str]:
    answer = await lifespan.ready(None)  # type: ignore[arg-type]
    return answer.status_code, json.loads(bytes(answer.body)).get("reason", "")


def failed(lifespan: DiscoveryLifespan) -> bool:
    discovery = lifespan._discovery
    return discovery is not None and any(one.state == "failed" for one in discovery.registrations)


async def test_it_registers_only_when_its_address_accepts(nats_url: str, prefix: str) -> None:
    port = free_port()
    lifespan = DiscoveryLifespan(spec(f"http://127.0.0.1:{port}"), servers=nats_url, bucket_prefix=prefix)
    with pytest.raises(natsdisc.StoreUnavailableError, match="not connected to NATS yet"):
        _ = lifespan.discovery
    async with lifespan(Starlette()), natsdisc.connect(nats_url, bucket_prefix=prefix) as client:
        await eventually(lambda: lifespan._discovery is not None, PATIENCE)
        for _ in range(20):  # round trips, each as long as a registration takes
            assert await client.list(SHOP) == []
        assert await ready(lifespan) == (503, "not registered yet")
        listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
        async with client.view(SHOP) as view:
            await view.wait_for(1, timeout=PATIENCE)
        await eventually(lambda: bool(lifespan.discovery.registrations), PATIENCE)
        assert await ready(lifespan) == (200, "")
        listening.close()
        await listening.wait_closed()
    async with natsdisc.connect(nats_url, bucket_prefix=prefix) as client:
        assert await client.list(SHOP) == []


async def test_the_application_serves_while_nats_is_away() -> None:
    nats_port = free_port()
    lifespan = DiscoveryLifespan(spec(), servers=f"nats://127.0.0.1:{nats_port}", listening="")
    async with lifespan(Starlette()):
        status, reason = await ready(lifespan)
        assert status == 503
        assert "not connected" in reason
        async with NatsServer(port=nats_port) as server, natsdisc.connect(server.url) as client:
            async with client.view(SHOP) as view:
                await view.wait_for(1, timeout=PATIENCE)
            await eventually(lambda: bool(lifespan.discovery.registrations), PATIENCE)
            assert await ready(lifespan) == (200, "")


async def test_what_cannot_be_registered_is_told(nats_url: str, prefix: str) -> None:
    async with natsdisc.connect(nats_url, bucket_prefix=prefix, instance_id=7) as other:
        await other.register(spec("http://127.0.0.1:2"))
        lifespan = DiscoveryLifespan(
            spec(), servers=nats_url, bucket_prefix=prefix, instance_id=7, listening=""
        )
        async with lifespan(Starlette()):
            await eventually(lambda: failed(lifespan), PATIENCE)
            status, reason = await ready(lifespan)
            assert status == 503
            assert "already registered" in reason
        wrong = DiscoveryLifespan(spec(), servers=nats_url, bucket_prefix="no.name")
        async with wrong(Starlette()):
            await eventually(lambda: wrong._error is not None, PATIENCE)
            assert (await ready(wrong))[0] == 503
        assert len(await other.list(SHOP)) == 1
    with pytest.raises(natsdisc.InvalidValueError):
        DiscoveryLifespan("spec")  # type: ignore[arg-type]


def test_it_works_around_another_lifespan_and_in_any_thread(nats_url: str, prefix: str) -> None:
    """A thread as that of Starlette's TestClient cannot handle signals."""
    steps: list[str] = []

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[dict[str, str]]:
        steps.append("begin")
        yield {"own": "state"}
        steps.append("end")

    async def use() -> None:
        lifespan = DiscoveryLifespan(
            spec(), servers=nats_url, bucket_prefix=prefix, listening="", lifespan=own
        )
        async with lifespan(Starlette()) as state:
            steps.append(state["own"])
            await eventually(lambda: lifespan._discovery is not None, PATIENCE)
            await eventually(lambda: bool(lifespan.discovery.registrations), PATIENCE)
            [registration] = lifespan.discovery.registrations
            async with asyncio.timeout(PATIENCE):
                await registration.active()
            assert await ready(lifespan) == (200, "")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, use()).result(PATIENCE)
    assert steps == ["begin", "state", "end"]


async def test_the_readiness_route_of_the_example() -> None:
    async with (
        NatsServer() as server,
        web(server, "uvicorn", "--log-level", "warning", "--port", "PORT", "fastapi_service:app") as program,
        natsdisc.connect(server.url) as client,
        client.view(SHOP) as view,
    ):
        await view.wait_for(1, timeout=PATIENCE)

        def ask() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"{program.first_line}/ready", timeout=PATIENCE) as answer:
                    return int(answer.status), answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        assert await asyncio.to_thread(ask) == (200, '{"ready":true}')
        program.process.terminate()
        await eventually(lambda: all(one.status == "draining" for one in view), PATIENCE)
        assert await asyncio.to_thread(ask) == (503, '{"ready":false,"reason":"draining"}')
        # A second signal ends the drain.
        program.process.terminate()
        async with asyncio.timeout(PATIENCE):
            await program.process.wait()
        await eventually(lambda: len(view) == 0, PATIENCE)
