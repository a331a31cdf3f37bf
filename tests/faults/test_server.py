"""The server goes away and comes back, with and without what it held."""

from __future__ import annotations

import asyncio
import time

from natsdisc.server import NatsServer

from .kit import Fleet, Plain

DOWN = 1.0  # the fault's own length


async def test_a_killed_server_that_comes_back_with_its_store() -> None:
    with NatsServer() as server:
        async with Fleet(server.url) as fleet:
            await fleet.put_foreign(range(20))
            await fleet.converged()
            mine = {str(id) for id in fleet.truth if id not in fleet.foreign}
            server.kill()
            await asyncio.sleep(DOWN)
            await asyncio.to_thread(server.start)
            back = time.monotonic()
            async with Plain.connected(server.url) as other:
                await fleet.delete_foreign(range(20), other)
                await fleet.put_foreign(range(20, 40), other)
            await fleet.converged("server killed and restarted, file storage", back)
            # The writers lived all the time: nobody was told anything else.
            assert not mine & await fleet.removed()
            assert fleet.resyncs()["reconnect"] > 0


async def test_a_killed_server_that_forgot_everything_and_others_made_the_buckets() -> None:
    with NatsServer() as server:
        async with Fleet(server.url, storage="memory", lease_ttl=3) as fleet:
            await fleet.put_foreign(range(20))
            await fleet.converged()
            with fleet.foreign.changing():
                server.kill()
                fleet.foreign.clear()
                await asyncio.sleep(DOWN)
                await asyncio.to_thread(server.start)
                back = time.monotonic()
            async with Plain.connected(server.url) as other:
                await other.make_buckets("memory")
                await fleet.put_foreign(range(15, 35), other)
            await fleet.converged("server killed and restarted, memory storage, bucket made by others", back)
