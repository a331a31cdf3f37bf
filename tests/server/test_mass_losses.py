"""Leases that lapse all at once, on a real server: clients go on, and those that are dead cost little."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, InstanceId, NoInstanceError, Transport, View, endpoints
from natsdisc.testing import crash
from tests.rig import eventually

INSTANCES, CLIENTS = 20, 5
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
            await asyncio.sleep(0.002)

    async def _request(self, instance: EndpointInstance) -> None:
        await asyncio.sleep(0)
        if instance.id in self._dead:
            raise ConnectionRefusedError(str(instance.id))

    async def go_on(self) -> None:
        """Wait for as many calls as would find each dead one."""
        before = self.calls
        await eventually(lambda: self.calls > before + 3 * INSTANCES, PATIENCE)


@pytest.mark.parametrize(
    ("lapse", "are_dead"), [(10, True), (14, True), (20, False)], ids=["half die", "most die", "all lapse"]
)
async def test_leases_that_lapse_at_once(nats_url: str, lapse: int, are_dead: bool) -> None:
    prefix = f"mass{lapse}"
    dead: set[InstanceId] = set()
    async with AsyncExitStack() as stack:

        async def join() -> natsdisc.Discovery:
            return await stack.enter_async_context(
                natsdisc.connect(nats_url, bucket_prefix=prefix, lease_ttl=1, expiry_grace=0.2)
            )

        services = [await join() for _ in range(INSTANCES)]
        spec = EndpointSpec("shop", "cart", "checkout", transport=Transport.nats("addr"))
        mine = [await service.register(spec) for service in services]
        views = [
            await stack.enter_async_context((await join()).view(endpoints("shop"))) for _ in range(CLIENTS)
        ]
        clients = [Client(view, dead) for view in views]
        running = [asyncio.create_task(client.run()) for client in clients]
        try:
            for client in clients:
                await client.view.wait_for(INSTANCES, timeout=PATIENCE)
                await client.go_on()
                assert client.failures == 0
            if are_dead:
                dead |= {one.id for one in mine[:lapse]}
            for service in services[:lapse]:
                await crash(service)
            for client in clients:
                await eventually(lambda view=client.view: len(view) == INSTANCES - lapse, PATIENCE)  # type: ignore[misc]
                assert client.view.panicking is (lapse > INSTANCES / 2)
                client.failures = 0  # nothing could tell until now
            for client in clients:
                await client.go_on()
            assert [client.without_instance for client in clients] == [0] * CLIENTS
            assert all(client.failures <= 1 for client in clients)
            if not are_dead:
                assert [client.failures for client in clients] == [0] * CLIENTS
                back = [await join() for _ in range(INSTANCES)]
                for service in back:
                    await service.register(spec)
                for client in clients:
                    await client.view.wait_for(INSTANCES, timeout=PATIENCE)
                    assert not client.view.panicking
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        assert not [task for task in running if not task.cancelled()]
