"""Services restart in turn under load, while an operator drains, owners update, and checks fail."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import nats

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, Status, Transport, endpoints
from natsdisc.balance import LeastOutstanding
from tests.rig import LONG, eventually

SERVICES, CLIENTS, RUNS = 4, 3, 3 if LONG else 1
PATIENCE = 30.0
# What one instance must not answer any more once it is left out: the requests that are in flight.
IN_FLIGHT = CLIENTS


class Service:
    """One process's service: it answers on a subject of its own, and says how healthy it is."""

    def __init__(self, nc: nats.NATS, prefix: str) -> None:
        self._nc = nc
        self.discovery = natsdisc.Discovery(
            natsdisc.JetStreamStore(nc, bucket_prefix=prefix), lease_ttl=3, expiry_grace=0.2
        )
        self.answered = 0
        self.is_well = True

    async def start(self) -> EndpointInstance:
        subject = f"rolling.{self.discovery.instance_id:x}"
        self._serving = await self._nc.subscribe(subject, cb=self._answer)
        await self._nc.flush()
        return await self.discovery.register(
            EndpointSpec("shop", "cart", "checkout", transport=Transport.nats(subject)),
            health=self._health,
            health_interval=0.2,
        )

    async def stop(self) -> None:
        await self.discovery.close(drain=0.5)
        await self._serving.unsubscribe()

    async def _answer(self, message: Any) -> None:
        self.answered += 1
        await message.respond(b"paid")

    async def _health(self) -> bool:
        return self.is_well


async def test_no_request_fails(nats_url: str) -> None:
    async with AsyncExitStack() as stack:
        nc, client = await nats.connect(nats_url), await nats.connect(nats_url)
        stack.push_async_callback(nc.close)
        stack.push_async_callback(client.close)
        operator = await stack.enter_async_context(natsdisc.connect(nats_url, bucket_prefix="rolling"))
        view = await stack.enter_async_context(operator.view(endpoints("shop"), balance=LeastOutstanding()))
        services = [Service(nc, "rolling") for _ in range(SERVICES)]
        mine = [await service.start() for service in services]
        await view.wait_for(SERVICES, timeout=PATIENCE)
        answers, failures = 0, list[Exception]()

        async def ask(instance: EndpointInstance) -> None:
            await client.request(instance.transport.address, b"", timeout=5)

        async def load() -> None:
            nonlocal answers
            while True:
                try:
                    await view.call(ask, attempts=1)
                    answers += 1
                except Exception as error:
                    failures.append(error)
                await asyncio.sleep(0.005)

        async def left_out(service: Service) -> None:
            """Wait until the others have answered, and this one has not."""
            before, all_before = service.answered, answers
            await eventually(lambda: answers > all_before + 40, PATIENCE)
            assert service.answered - before <= IN_FLIGHT

        async def has(index: int, status: Status) -> None:
            def status_is_shown() -> bool:
                shown = view.get(mine[index].id)
                return shown is not None and shown.status is status

            await eventually(status_is_shown, PATIENCE)

        running = [asyncio.create_task(load()) for _ in range(CLIENTS)]
        try:
            for number in [*range(SERVICES)] * RUNS:
                service, flapping = services[number], (number + 1) % SERVICES
                await operator.drain(mine[number])
                await has(number, Status.DRAINING)
                updated = await service.discovery.update(mine[number], metadata={"version": number})
                assert updated.status is Status.DRAINING  # the operator's word stays
                services[flapping].is_well = False
                await has(flapping, Status.UNHEALTHY)
                await left_out(service)
                await left_out(services[flapping])
                services[flapping].is_well = True
                await has(flapping, Status.SERVING)
                await service.stop()
                await eventually(lambda gone=mine[number]: gone not in view, PATIENCE)  # type: ignore[misc]
                services[number] = Service(nc, "rolling")
                mine[number] = await services[number].start()
                await view.wait_for(SERVICES, timeout=PATIENCE)
            before = [service.answered for service in services]
            await eventually(
                lambda: all(s.answered > b for s, b in zip(services, before, strict=True)), PATIENCE
            )
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            for service in services:
                await service.discovery.close()
        assert failures == []
        assert answers > 40 * SERVICES
