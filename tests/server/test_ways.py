"""The way of a removal, from the bytes of a socket to the user, as docs/design.md draws it."""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, Event, Removed, Transport, endpoints
from natsdisc.store.jetstream import JetStreamStore

PATIENCE = 20.0
PACKAGE = Path(natsdisc.__file__).parent
# Each is called by the one before it. With the last one, a watch has the event in its queue.
WAY = [
    ("parser", "parse"),
    ("parser", "_take"),
    ("parser", "_hand_over"),
    ("delivery", "receive"),
    ("delivery", "_deliver"),
    ("delivery", "_report"),
    ("informer", "delete"),
    ("informer", "_tell"),
    ("informer", "_guard"),
    ("listeners", "changed"),
]


@pytest.mark.parametrize("whose", ["our connection", "a user's connection"])
async def test_a_removal_takes_ten_calls(nats_url: str, prefix: str, whose: str) -> None:
    ways: list[list[tuple[str, str]]] = []
    removed = asyncio.Event()

    def note(event: Event) -> None:
        if isinstance(event, Removed):
            frames = [frame for frame in traceback.extract_stack() if PACKAGE in Path(frame.filename).parents]
            ways.append([(Path(frame.filename).stem, frame.name) for frame in frames])
            removed.set()

    client = await nats.connect(nats_url)
    try:
        store = JetStreamStore(client, bucket_prefix=prefix)
        async with (
            natsdisc.connect(nats_url, bucket_prefix=prefix) as service,
            natsdisc.Discovery(store) as theirs,
            natsdisc.connect(nats_url, bucket_prefix=prefix) as ours,
        ):
            reader = ours if whose == "our connection" else theirs
            mine = await service.register(EndpointSpec("a", "b", "c", transport=Transport.nats("x")))
            async with reader.view(endpoints()) as view, asyncio.timeout(PATIENCE):
                await view.wait_for(1)
                view.subscribe(note)
                await service.unregister(mine)
                await removed.wait()
    finally:
        await client.close()
    [way] = ways
    begins = way.index(("parser", "parse"))
    assert way[begins : begins + len(WAY)] == WAY
