"""Signed registrations: only what a trusted key has signed is believed. On both stores."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import nkeys
import pytest

import natsdisc
from natsdisc import (
    EndpointInstance,
    EndpointSpec,
    EventChannelSpec,
    EventSourceSpec,
    ModelSpec,
    Registration,
    RemovalReason,
    Removed,
    Scope,
    Signer,
    State,
    Transport,
    Trust,
    endpoints,
    event_channels,
    event_sources,
    models,
    wire,
)
from natsdisc.errors import AlreadyRegisteredError, ConflictError, InvalidValueError
from natsdisc.keys import key_of
from natsdisc.store import Entry, Store, Write
from natsdisc.store.signed import SignedStore
from natsdisc.testing import crash
from tests.rig import eventually

from .conftest import Registry

PATIENCE = 20.0
BUCKET = "v1_instances"
EVIL = Transport.nats("evil")


def new_seed() -> bytes:
    seed: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed


SEED = new_seed()
SIGNER, OPERATOR, STRANGER = Signer(SEED), Signer(new_seed()), Signer(new_seed())
TRUSTED = {"shop": [SIGNER.public_key], "*": [OPERATOR.public_key]}
SHOP_ONLY = {"shop": [SIGNER.public_key]}
SIGNING = {"signer": SIGNER, "trusted": TRUSTED}


def spec(at: str = "good", name: str = "checkout", **metadata: Any) -> EndpointSpec:
    return EndpointSpec("shop", "cart", name, transport=Transport.nats(at), metadata=metadata)


def redirected(mine: EndpointInstance) -> bytes:
    changed = spec("evil").with_instance_id(mine.instance_id)
    return wire.dumps(changed)


async def entry_of(store: Store, instance: natsdisc.Instance) -> Entry:
    entry = await store.bucket(BUCKET).get(key_of(instance.id))
    assert entry is not None
    return entry


async def write_over(store: Store, instance: EndpointInstance, value: bytes, signature: str | None) -> None:
    """As an operator of the registry may who has no key."""
    bucket, entry = store.bucket(BUCKET), await entry_of(store, instance)
    await bucket.replace(Write(entry.key, value, 1.0, signature=signature), revision=entry.revision)


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "natsdisc_event", "") == event]


class Seen:
    """Every transport that a view ever showed."""

    def __init__(self, view: natsdisc.View[Any]) -> None:
        self._view = view
        self.transports = {instance.transport for instance in view.instances}
        self.events: list[natsdisc.Event] = []
        view.subscribe(self._note)

    def _note(self, event: natsdisc.Event) -> None:
        self.events.append(event)
        self.transports |= {instance.transport for instance in self._view.instances}


async def test_what_is_signed_is_seen_and_what_is_not_is_not(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    service, client = await registry.join(**SIGNING), await registry.join(trusted=TRUSTED)
    others = [await registry.join(), await registry.join(signer=STRANGER), await registry.join(signer=SIGNER)]
    everybody = await registry.join()
    mine = await service.register(spec())
    unsigned, foreign, elsewhere = [
        await other.register(spec(f"at{number}")) for number, other in enumerate(others[:2])
    ] + [await others[2].register(EndpointSpec("bank", "x", "y", transport=Transport.nats("z")))]
    async with client.view(endpoints()) as view, client.list_and_watch(endpoints()) as events:
        await events.synced()
        assert view.synced
        assert view.instances == (mine,)
        assert await client.list(endpoints()) == [mine]
        assert (await anext(events)).instance == mine  # type: ignore[union-attr]
    assert len(await everybody.list(endpoints())) == 4
    assert client.stats().untrusted == 6  # three by the feed, three by the list
    assert client.stats().invalid == 0
    told = {record.getMessage() for record in lines(caplog, "untrusted")}
    assert len(told) == 3
    for instance, reason in (
        (unsigned, "it has no signature"),
        (foreign, f"it is signed with {STRANGER.public_key}, which is not trusted"),
        (elsewhere, "not trusted for its namespace"),
    ):
        assert any(key_of(instance.id) in line and reason in line for line in told)


async def test_values_stay_byte_for_byte(registry: Registry) -> None:
    service, plain = await registry.join(signer=SIGNER), await registry.join()
    store = await registry.store()
    mine = await service.register(spec(zone="a"))
    assert (await entry_of(store, mine)).value == wire.dumps(mine)
    async with plain.view(endpoints()) as view:
        await view.wait_for(1, timeout=PATIENCE)
        assert view.instances == (mine,)
    assert await plain.list(endpoints()) == [mine]


async def test_model_cards_are_signed_too(registry: Registry) -> None:
    service, client = await registry.join(**SIGNING), await registry.join(trusted=TRUSTED)
    other = await registry.join()
    card = await service.register(ModelSpec("shop", "a", "b", card={"name": "m"}, model_suffix="lora"))
    await other.register(ModelSpec("shop", "a", "b", card={"name": "evil"}))
    assert await client.list(models()) == [card]


async def test_leases_go_on(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1, **SIGNING), await registry.join(trusted=TRUSTED)
    mine = await service.register(spec())
    async with client.view(endpoints()) as view:
        await view.wait_for(1, timeout=PATIENCE)
        seen = Seen(view)
        await eventually(lambda: service.stats().renewals.count >= 5, PATIENCE)
        assert (seen.events, service.stats().fence_failures) == ([], 0)
        await crash(service)
        await eventually(lambda: len(view) == 0, PATIENCE)
        assert seen.events == [Removed(mine.id, RemovalReason.EXPIRED)]
    assert client.stats().untrusted == 0


async def test_the_same_process_registers_updates_and_leaves(registry: Registry) -> None:
    service, client = await registry.join(**SIGNING), await registry.join(trusted=TRUSTED, expiry_grace=0)
    async with client.view(endpoints()) as view:
        for round in range(3):
            mine = await service.register(spec())
            assert await service.register(spec()) == mine
            mine = await service.update(mine, metadata={"round": round})
            await eventually(lambda: view.instances == (mine,), PATIENCE)  # noqa: B023
            mine = await service.drain(mine)
            await eventually(lambda: view.instances == (mine,), PATIENCE)  # noqa: B023
            await service.unregister(mine)
            await eventually(lambda: len(view) == 0, PATIENCE)
    assert client.stats().untrusted == 0


async def test_an_operator_with_a_key_updates_and_drains(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1, **SIGNING), await registry.join(trusted=TRUSTED)
    operator = await registry.join(signer=OPERATOR, trusted=TRUSTED)
    mine = await service.register(spec())
    [held] = service.registrations
    async with client.view(endpoints()) as view:
        await view.wait_for(1, timeout=PATIENCE)
        changed = await operator.update(mine, metadata={"weight": 3})
        await eventually(lambda: view.instances == (changed,), PATIENCE)
        await eventually(lambda: held.instance == changed and held.state is State.ACTIVE, PATIENCE)
        # The owner goes on from there, and signs it.
        again = await service.update(changed, transport=Transport.nats("moved"))
        await eventually(lambda: view.instances == (again,), PATIENCE)
        drained = await operator.drain(again)
        await eventually(lambda: view.instances == (drained,), PATIENCE)
        await eventually(lambda: held.instance == drained, PATIENCE)
        await service.unregister(drained)
        await eventually(lambda: len(view) == 0, PATIENCE)
    assert client.stats().untrusted == 0


@pytest.mark.parametrize("how", ["unsigned", "same bytes", "copied signature", "stranger", "nonsense"])
async def test_an_operator_without_a_key_redirects_nobody(
    registry: Registry, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    lost: list[Registration] = []
    service = await registry.join(lease_ttl=1, on_lost=lost.append, **SIGNING)
    client, store = await registry.join(trusted=TRUSTED), await registry.store()
    plain = await registry.join()
    mine = await service.register(spec())
    async with client.view(endpoints()) as view:
        await view.wait_for(1, timeout=PATIENCE)
        seen = Seen(view)
        for number in range(1, 4):
            signed = (await entry_of(store, mine)).signature
            value = wire.dumps(mine) if how == "same bytes" else redirected(mine)
            signature = {"copied signature": signed, "nonsense": "x y"}.get(how)
            if how == "stranger":
                bucket: Any = service._store.bucket(BUCKET)
                signature = str(
                    STRANGER.sign(bucket.name, key_of(mine.id), value, owner="a", time=1, until=0)
                )
            await write_over(store, mine, value, signature)
            await eventually(lambda: client.stats().untrusted == number, PATIENCE)  # noqa: B023
            assert view.instances == (mine,)
            # The owner puts its own back with its next heartbeat.
            await eventually(lambda: service.stats().reregistrations == number, PATIENCE)  # noqa: B023
            back = await entry_of(store, mine)
            assert (back.value, back.signature is not None) == (wire.dumps(mine), True)
            assert await client.list(endpoints()) == await plain.list(endpoints()) == [mine]
        assert (seen.events, seen.transports) == ([], {mine.transport})
    assert (lost, [r.state for r in service.registrations]) == ([], [State.ACTIVE])
    # Once by the feed.
    assert len(lines(caplog, "untrusted")) == 1


async def test_a_signed_value_is_believed_at_its_place_only(registry: Registry) -> None:
    service, client = await registry.join(**SIGNING), await registry.join(trusted=TRUSTED)
    store = await registry.store()
    mine, other = await service.register(spec()), await service.register(spec("other", "refund"))
    entry = await entry_of(store, mine)
    await write_over(store, other, entry.value, entry.signature)
    assert await client.list(endpoints()) == [mine]
    # Another registry of the same account, with the same key.
    bucket: Any = service._store.bucket(BUCKET)
    assert bucket.name.endswith(BUCKET)
    with pytest.raises(InvalidValueError, match="does not match"):
        Trust(TRUSTED).verify(f"other_{bucket.name}", entry.key, entry.value, entry.signature)


async def test_an_older_value_of_a_living_owner_is_refused(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1, **SIGNING), await registry.join(trusted=TRUSTED)
    store = await registry.store()
    mine = await service.register(spec("old"))
    old = await entry_of(store, mine)
    mine = await service.update(mine, transport=Transport.nats("new"))
    async with client.view(endpoints()) as view:
        await view.wait_for(1, timeout=PATIENCE)
        seen = Seen(view)
        await write_over(store, mine, old.value, old.signature)
        await eventually(lambda: client.stats().untrusted == 1, PATIENCE)
        await eventually(lambda: service.stats().reregistrations == 1, PATIENCE)
        assert await client.list(endpoints()) == [mine]
        assert (view.instances, seen.transports) == ((mine,), {Transport.nats("new")})
    assert [r.instance for r in service.registrations] == [mine]


async def test_an_older_update_is_not_adopted(registry: Registry) -> None:
    """A drain that was taken back does not come back."""
    service, store = await registry.join(lease_ttl=1, **SIGNING), await registry.store()
    operator = await registry.join(signer=OPERATOR, trusted=TRUSTED)
    mine = await service.register(spec())
    [held] = service.registrations
    drained = await operator.drain(mine)
    old = await entry_of(store, mine)
    await eventually(lambda: held.instance == drained, PATIENCE)
    mine = await service.update(drained, metadata={})
    await write_over(store, mine, old.value, old.signature)
    again = service.stats().reregistrations + 1
    await eventually(lambda: service.stats().reregistrations >= again, PATIENCE)
    assert held.instance == mine
    assert (await entry_of(store, mine)).value == wire.dumps(mine)


async def test_a_value_does_not_come_back_after_its_removal(registry: Registry) -> None:
    service, client = await registry.join(**SIGNING), await registry.join(trusted=TRUSTED, expiry_grace=0)
    store = await registry.store()
    mine = await service.register(spec())
    entry = await entry_of(store, mine)
    async with client.view(endpoints()) as view:
        await view.wait_for(1, timeout=PATIENCE)
        await service.unregister(mine)
        await eventually(lambda: len(view) == 0, PATIENCE)
        seen = Seen(view)
        await store.bucket(BUCKET).create(Write(entry.key, entry.value, owner="x", signature=entry.signature))
        await eventually(lambda: client.stats().untrusted == 1, PATIENCE)
        assert (seen.events, view.instances) == ([], ())


async def test_two_keys_overlap_while_one_replaces_the_other(registry: Registry) -> None:
    new = Signer(new_seed())
    both = {"shop": [SIGNER.public_key, new.public_key]}
    old_service, client = await registry.join(**SIGNING), await registry.join(trusted=both)
    new_service = await registry.join(signer=new, trusted=both)
    one, two = await old_service.register(spec("one")), await new_service.register(spec("two"))
    assert sorted(await client.list(endpoints()), key=str) == sorted([one, two], key=str)
    later = await registry.join(trusted={"shop": [new.public_key]})
    assert await later.list(endpoints()) == [two]
    # The same instance, started again with the new key while its lease runs.
    await crash(old_service)
    again = await registry.join(signer=new, trusted=both, instance_id=old_service.instance_id)
    assert await again.register(spec("one")) == one
    assert sorted(await later.list(endpoints()), key=str) == sorted([one, two], key=str)


async def test_a_signed_registration_in_vain_is_refused(registry: Registry) -> None:
    for options, message in (
        ({"trusted": TRUSTED}, "without a `signer`"),
        ({"signer": STRANGER, "trusted": TRUSTED}, STRANGER.public_key),
    ):
        discovery = await registry.join(**options)
        with pytest.raises(InvalidValueError, match=message):
            await discovery.register(spec())
        assert discovery.registrations == ()
    reader = await registry.join(signer=STRANGER, trusted={"bank": [SIGNER.public_key]})
    await reader.register(spec())  # it reads bank only, and may be trusted in shop


async def test_an_owner_without_trusted_signs_nothing_of_others(registry: Registry) -> None:
    service, client = await registry.join(lease_ttl=1, signer=SIGNER), await registry.join(trusted=TRUSTED)
    store, stranger = await registry.store(), await registry.join()
    mine = await service.register(spec())
    await stranger.update(mine, transport=EVIL)
    await eventually(lambda: service.stats().reregistrations == 1, PATIENCE)
    assert [r.instance for r in service.registrations] == [mine]
    assert (await entry_of(store, mine)).value == wire.dumps(mine)
    assert await client.list(endpoints()) == [mine]


async def test_an_operator_signs_nothing_that_it_cannot_verify(registry: Registry) -> None:
    stranger, store = await registry.join(), await registry.store()
    theirs = await stranger.register(spec("evil"))
    before = await entry_of(store, theirs)
    for options in ({"signer": OPERATOR}, {"signer": OPERATOR, "trusted": TRUSTED}):
        operator = await registry.join(**options)
        with pytest.raises(ConflictError):
            await operator.update(theirs, metadata={"a": 1})
    assert await entry_of(store, theirs) == before


async def test_an_unsigned_value_under_our_id_is_written_over(registry: Registry) -> None:
    stranger, service = await registry.join(instance_id=7), await registry.join(instance_id=7, **SIGNING)
    client = await registry.join(trusted=TRUSTED)
    await stranger.register(spec("evil"))
    mine = await service.register(spec())
    assert await client.list(endpoints()) == [mine]
    second = await registry.join(instance_id=7, **SIGNING)
    with pytest.raises(AlreadyRegisteredError):
        await second.register(spec("second"))


async def test_where_no_key_is_named_and_nothing_is_signed_all_is_as_without(registry: Registry) -> None:
    service = await registry.join(lease_ttl=1, instance_id=7, trusted=SHOP_ONLY)
    plain, second = await registry.join(), await registry.join(instance_id=7, trusted=SHOP_ONLY)
    mine = await service.register(EndpointSpec("bank", "x", "y", transport=Transport.nats("a")))
    with pytest.raises(AlreadyRegisteredError):
        await second.register(EndpointSpec("bank", "x", "y", transport=Transport.nats("b")))
    [held] = service.registrations
    changed = await plain.update(mine, metadata={"a": 1})
    await eventually(lambda: held.instance == changed, PATIENCE)
    changed = await second.update(changed, metadata={"a": 2})
    await eventually(lambda: held.instance == changed, PATIENCE)
    assert await plain.list(endpoints()) == [changed]
    assert await service.list(endpoints()) == []


class Wall:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_signature_is_made_again_before_it_ends(registry: Registry) -> None:
    wall, store = Wall(), await registry.store()
    refused: list[tuple[str, str, Exception]] = []
    trust = Trust(TRUSTED)

    def signed(signer: Signer | None) -> SignedStore:
        return SignedStore(
            store, signer=signer, trust=trust, refused=lambda *what: refused.append(what), wall=wall
        )

    signer = Signer(SEED)  # with a clock of its own
    client, service = natsdisc.Discovery(signed(None)), natsdisc.Discovery(signed(signer), lease_ttl=1)
    try:
        mine = await service.register(spec())
        first = await entry_of(store, mine)
        async with client.view(endpoints()) as view:
            await view.wait_for(1, timeout=PATIENCE)
            seen = Seen(view)
            wall.now += 1_300
            beats = service.stats().renewals.count
            await eventually(lambda: service.stats().renewals.count > beats + 3, PATIENCE)
            second = await entry_of(store, mine)
            assert (second.value, second.signature != first.signature) == (first.value, True)
            wall.now += 3_000  # the first one has ended
            await eventually(lambda: service.stats().renewals.count > beats + 6, PATIENCE)
            assert (seen.events, view.instances, service.stats().fence_failures) == ([], (mine,), 0)
            assert await client.list(endpoints()) == [mine]
            # Somebody writes it again after its owner's death: nobody believes that for long.
            last = await entry_of(store, mine)
            await crash(service)
            await eventually(lambda: len(view) == 0, PATIENCE)
            await store.bucket(BUCKET).create(
                Write(last.key, last.value, owner="x", signature=last.signature)
            )
            assert await client.list(endpoints()) == [mine]
            wall.now += 3_700
            assert await client.list(endpoints()) == []
            assert "ended" in str(refused[-1][2])
    finally:
        await asyncio.gather(client.close(), service.close())


async def test_an_instance_whose_signature_has_ended_is_missing() -> None:
    """As after a replay: the last value of a dead owner, written again without a lease."""
    clock, wall = natsdisc.ManualClock(), Wall()
    store = natsdisc.MemoryStore(clock=clock)
    refused: list[str] = []
    signed = SignedStore(
        store,
        signer=None,
        trust=Trust(TRUSTED),
        refused=lambda bucket, key, error: refused.append(str(error)),
        wall=wall,
    )
    mine = spec().with_instance_id(7)
    key, value, now = key_of(mine.id), wire.dumps(mine), int(wall.now * 1000)
    signature = SIGNER.sign(BUCKET, key, value, owner="dead", time=now, until=now + 3_600_000)
    await store.bucket(BUCKET).create(Write(key, value, owner="x", signature=str(signature)))
    async with natsdisc.Discovery(signed) as client, client.view(endpoints()) as view:
        await view.wait_for(1, timeout=PATIENCE)
        seen = Seen(view)
        wall.now += 3_600
        await clock.advance(60)
        assert view.instances == (mine,)  # within what clocks may differ
        wall.now += 61
        await clock.advance(60)
        assert len(view) == 0
        assert seen.events == [Removed(mine.id, RemovalReason.MISSING)]
        assert refused == ["its signature ended: its owner did not sign again"]
        await clock.advance(600)
        assert len(refused) == 1


@pytest.mark.parametrize(
    "spec",
    [
        EventChannelSpec(
            Scope.namespace("shop"), "kv", transport=Transport("Zmq", {"endpoint": "tcp://h:1"})
        ),
        EventSourceSpec(Scope.component("shop", "cart"), "kv", metadata={"rank": 0}),
    ],
)
async def test_an_event_is_believed_with_the_key_of_its_namespace(
    registry: Registry, spec: EventChannelSpec | EventSourceSpec
) -> None:
    owner = await registry.join(signer=SIGNER, trusted=SHOP_ONLY)
    plain, client = await registry.join(), await registry.join(trusted=SHOP_ONLY)
    stranger = await registry.join(signer=STRANGER, trusted={"namespace": [STRANGER.public_key]})
    await stranger.register(spec)
    mine = await owner.register(spec)
    await plain.register(spec)
    query = event_channels() if isinstance(spec, EventChannelSpec) else event_sources()
    assert await client.list(query) == [mine]
    assert client.stats().untrusted == 2
