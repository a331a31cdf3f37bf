"""Instances that die all at once, on a real server: clients go on, and the dead ones cost little."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import nats
import pytest

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, InstanceId, NoInstanceError, Transport, View, endpoints
from natsdisc.testing import crash
from tests.rig import eventually

INSTANCES, CLIENTS = 20, 4
PATIENCE = 30.0


class Client:
    """It calls one instance after the other, and counts what fails."""

    def __init__(self, view: View[EndpointInstance], dead: set[InstanceId]) -> None:
        self.view = view
        self.failures = self.calls = self.without_instance = 0
        self._dead = dead

    async def run(self) -> None:
        while True:
            try:
                await self.view.call(self._request, attempts=2)
            except NoInstanceError:
                self.without_instance += 1
            except ConnectionRefusedError:
                self.failures += 1
            self.calls += 1
            await asyncio.sleep(0.01)

    async def _request(self, instance: EndpointInstance) -> None:
        await asyncio.sleep(0)
        if instance.id in self._dead:
            raise ConnectionRefusedError(str(instance.id))

    async def go_on(self) -> None:
        """Wait for as many calls as would find each dead one."""
        before = self.calls
        await eventually(lambda: self.calls > before + 3 * INSTANCES, PATIENCE)


@pytest.mark.parametrize("dying", [10, 14])
async def test_instances_that_die_at_once(nats_url: str, dying: int) -> None:
    prefix = f"mass{dying}"
    dead: set[InstanceId] = set()
    async with AsyncExitStack() as stack:
        # One connection for all: the server and the leases count here, not the sockets.
        nc = await nats.connect(nats_url)
        stack.push_async_callback(nc.close)

        joined: list[natsdisc.Discovery] = []

        async def close_all() -> None:
            await asyncio.gather(*(discovery.close() for discovery in joined))

        stack.push_async_callback(close_all)

        def join() -> natsdisc.Discovery:
            store = natsdisc.JetStreamStore(nc, bucket_prefix=prefix)
            joined.append(natsdisc.Discovery(store, lease_ttl=3, expiry_grace=0.2))
            return joined[-1]

        services = [join() for _ in range(INSTANCES)]
        spec = EndpointSpec("shop", "cart", "checkout", transport=Transport.nats("addr"))
        mine = [await service.register(spec) for service in services]
        reading = join()
        views = [await stack.enter_async_context(reading.view(endpoints("shop"))) for _ in range(CLIENTS)]
        clients = [Client(view, dead) for view in views]
        running = [asyncio.create_task(client.run()) for client in clients]
        try:
            for client in clients:
                await client.view.wait_for(INSTANCES, timeout=PATIENCE)
                await client.go_on()
                assert client.failures == 0
            dead |= {one.id for one in mine[:dying]}
            await asyncio.gather(*map(crash, services[:dying]))
            for client in clients:
                await eventually(lambda view=client.view: len(view) == INSTANCES - dying, PATIENCE)  # type: ignore[misc]
                assert client.view.panicking is (dying > INSTANCES / 2)
                client.failures = 0  # nothing could tell until now
            for client in clients:
                await client.go_on()
            assert [client.without_instance for client in clients] == [0] * CLIENTS
            assert all(client.failures <= 1 for client in clients)
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        assert not [task for task in running if not task.cancelled()]
