"""The configurations of docs/operations.md for regions and leaf nodes, run as they stand there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport, UnsupportedServerError, endpoints
from natsdisc.server import NatsServer
from natsdisc.testing import crash
from tests.rig import eventually

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
CONFIGURATIONS = dict(re.findall(r"```conf\n# (\w+)\.conf.*?\n(.*?)```", PAGE, re.DOTALL))
[MIRROR] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
SPEC = EndpointSpec("shop", "cart", "checkout", transport=Transport.http("http://a"))


class Regions:
    """The server `eu` of the page, and another that is linked to it."""

    def __init__(self, other: str, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            leaf = f"127.0.0.1:{sock.getsockname()[1]}"

        def server(name: str) -> NatsServer:
            config = CONFIGURATIONS[name].replace("0.0.0.0:7422", leaf).replace("eu.example:7422", leaf)
            config = config.replace("/var/lib/nats", str(directory / name))
            return NatsServer(config=config, jetstream="jetstream {" in config)

        self.eu, self.other = server("eu"), server(other)

    @contextlib.asynccontextmanager
    async def linked(self) -> AsyncIterator[tuple[NatsServer, NatsServer]]:
        """Both, once JetStream's requests pass between them."""
        async with self.eu, self.other:
            client = await nats.connect(self.other.url)
            try:

                async def answers() -> bool:
                    with contextlib.suppress(nats.errors.Error):
                        return "error" not in await api(client, "$JS.eu.API.INFO")
                    return False

                await eventually(answers)
            finally:
                await client.close()
            yield self.eu, self.other


async def api(client: Any, subject: str, body: Any = None) -> Any:
    answer = await client.request(subject, json.dumps(body).encode() if body else b"", timeout=2)
    return json.loads(answer.data)


async def make_mirror(server: NatsServer) -> None:
    client = await nats.connect(server.url)
    try:
        answer = await api(client, f"$JS.API.STREAM.CREATE.{MIRROR['name']}", MIRROR)
        assert "error" not in answer, answer
    finally:
        await client.close()


async def test_a_mirror_is_read_in_another_region_and_only_read(tmp_path: Path) -> None:
    async with (
        Regions("us", tmp_path).linked() as (eu, us),
        natsdisc.connect(eu.url, bucket_prefix="eu", lease_ttl=5) as owner,
        natsdisc.connect(us.url, bucket_prefix="eu", expiry_grace=0) as reader,
    ):
        mine = await owner.register(SPEC)
        await make_mirror(us)
        async with reader.view(endpoints("shop")) as view:
            await view.wait_for(1, timeout=10)
            assert view.instances == (mine,)
            assert await reader.list(endpoints("shop")) == [mine]

            dying = await natsdisc.connect(eu.url, bucket_prefix="eu", lease_ttl=1)
            await dying.register(SPEC)
            await view.wait_for(2, timeout=10)
            await crash(dying)
            await eventually(lambda: view.instances == (mine,))

            with pytest.raises(UnsupportedServerError, match="mirror, which can only be read"):
                await reader.register(SPEC)
            await owner.unregister(mine)
            await eventually(lambda: view.instances == ())


async def test_a_mirror_without_anything_for_a_query_is_no_error(tmp_path: Path) -> None:
    async with (
        Regions("us", tmp_path).linked() as (eu, us),
        natsdisc.connect(eu.url, bucket_prefix="eu") as owner,
        natsdisc.connect(us.url, bucket_prefix="eu") as reader,
    ):
        await owner.register(SPEC)
        await make_mirror(us)
        assert await reader.list(endpoints("nobody")) == []
        async with reader.list_and_watch(endpoints("nobody")) as watch:
            await watch.synced()


async def test_each_region_registers_in_a_bucket_of_its_own(tmp_path: Path) -> None:
    async with (
        Regions("us", tmp_path).linked() as (eu, us),
        natsdisc.connect(eu.url, bucket_prefix="eu", lease_ttl=3) as here,
        natsdisc.connect(us.url, bucket_prefix="us", lease_ttl=3) as there,
    ):
        specs = [dataclasses.replace(SPEC, endpoint=f"checkout{number}") for number in range(20)]
        mine = {await here.register(spec) for spec in specs}
        yours = {await there.register(spec) for spec in specs}
        # One that the other side answers fails its fence, sooner or later.
        await eventually(lambda: min(one.stats().heartbeats for one in (here, there)) >= 3 * len(specs))
        assert set(await here.list(endpoints())) == mine
        assert set(await there.list(endpoints())) == yours
        assert here.stats().fence_failures == there.stats().fence_failures == 0


async def test_a_leaf_without_jetstream_uses_the_hubs(tmp_path: Path) -> None:
    async with (
        Regions("edge", tmp_path).linked() as (eu, edge),
        natsdisc.connect(edge.url, lease_ttl=3) as service,
        natsdisc.connect(eu.url, expiry_grace=0) as client,
    ):
        mine = await service.register(SPEC)
        async with client.view(endpoints()) as view:
            await view.wait_for(1, timeout=10)
            await eventually(lambda: service.stats().heartbeats >= 3)
            assert view.instances == (mine,) == tuple(await service.list(endpoints()))
            await crash(service)
            await eventually(lambda: not len(view))
