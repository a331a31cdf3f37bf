"""The printed permissions on real servers: what each role can do, cannot do, and what is not protected."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import nats
import pytest

import natsdisc
from natsdisc import (
    Added,
    Discovery,
    DiscoveryError,
    EndpointSpec,
    InvalidNameError,
    InvalidQueryError,
    ModelSpec,
    PermissionDeniedError,
    RemovalReason,
    Removed,
    StoreUnavailableError,
    Transport,
    endpoints,
    models,
)
from natsdisc.acl import Permissions, Role, permissions
from natsdisc.entry import BUCKETS
from natsdisc.server import NatsServer
from natsdisc.store.jetstream.admin import Admin
from natsdisc.store.jetstream.inspector import Inspector
from tests.rig import eventually

PATIENCE = 30.0
TTL = 3.0  # a heartbeat within a second
PASSWORD = "pw"

# A name that needs escaping: what is printed must be what is sent.
USERS: dict[str, Permissions] = {
    "reader": permissions(Role.READER),
    "shop-reader": permissions(Role.READER, namespace="s.hop", inbox_prefix="_INBOX_shop"),
    "registrar": permissions(Role.REGISTRAR, namespace="s.hop", inbox_prefix="_INBOX_reg"),
    "cart-registrar": permissions(
        Role.REGISTRAR, namespace="s.hop", component="cart", inbox_prefix="_INBOX_cart"
    ),
    "creator": permissions(Role.REGISTRAR, namespace="s.hop", bucket_prefix="new", create=True),
    "elsewhere": permissions(Role.REGISTRAR, bucket_prefix="other"),
    "operator": permissions(Role.OPERATOR),
}
INBOXES = {"shop-reader": "_INBOX_shop", "registrar": "_INBOX_reg", "cart-registrar": "_INBOX_cart"}


def config() -> str:
    users = [
        f"{{ user: {name}, password: {PASSWORD}, {allowed.as_conf()} }}" for name, allowed in USERS.items()
    ]
    return (
        f"accounts {{ A {{ jetstream: enabled, users: [\n"
        f"{{ user: admin, password: {PASSWORD} }}\n{chr(10).join(users)}\n] }} }}"
    )


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    with NatsServer(config=config()) as server:
        yield server


class Users:
    """Connections as the users of the server, and everything the server refused them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.refused: dict[str, list[str]] = {}

    @property
    def complaints(self) -> list[str]:
        """Everything, whoever it was."""
        return [text for texts in self.refused.values() for text in texts]

    def options(self, user: str) -> dict[str, Any]:
        refused = self.refused.setdefault(user, [])

        async def error_cb(error: Exception) -> None:
            refused.append(str(error))

        inbox = INBOXES.get(user)
        return {
            "user": user,
            "password": PASSWORD,
            "error_cb": error_cb,
            **({"inbox_prefix": inbox} if inbox is not None else {}),
        }

    def discovery(self, user: str, **options: Any) -> natsdisc.Connecting:
        return natsdisc.connect(self._url, **{"lease_ttl": TTL, **options}, **self.options(user))

    @contextlib.asynccontextmanager
    async def client(self, user: str) -> AsyncIterator[nats.NATS]:
        client = await nats.connect(self._url, **self.options(user))
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture
async def users(guarded: NatsServer) -> Users:
    """Every test begins with two empty buckets."""
    users = Users(guarded.url)
    async with users.client("admin") as client:
        for stream in await client.jetstream().streams_info():
            await client.jetstream().delete_stream(stream.config.name)
    login = {"user": "admin", "password": PASSWORD}
    async with await Admin.connect(guarded.url, dict(login)) as admin:
        for bucket in BUCKETS.values():
            await admin.make(bucket)
    return users


def spec(namespace: str = "s.hop", component: str = "cart", **metadata: Any) -> EndpointSpec:
    return EndpointSpec(namespace, component, "pay", transport=Transport.nats("shop.pay"), metadata=metadata)


def card(namespace: str = "s.hop", component: str = "cart") -> ModelSpec:
    return ModelSpec(namespace, component, "pay", card={"display_name": "m"}, model_suffix="a b")


async def everything_a_registrar_does(discovery: Discovery, namespace: str, component: str) -> None:
    """All that natsdisc does for whoever registers, heartbeats and the way back after a loss included."""
    async with asyncio.timeout(PATIENCE):
        async with discovery.list_and_watch(endpoints(namespace, component)) as events:
            await events.synced()
            mine = await discovery.register(spec(namespace, component))
            model = await discovery.register(card(namespace, component))
            assert await anext(events) == Added(mine)
            changed = await discovery.update(mine, metadata={"weight": 2})
            assert await anext(events) == Added(changed)
            drained = await discovery.drain(changed)
            assert await anext(events) == Added(drained)
            assert await discovery.list(models(namespace, component)) == [model]
            before = discovery.stats().heartbeats
            await eventually(lambda: discovery.stats().heartbeats >= before + 4, PATIENCE)
            assert discovery.stats().fence_failures == 0
            await discovery.unregister(drained)
            await discovery.unregister(model)
            removed = await anext(events)
            assert isinstance(removed, Removed)
            assert removed.reason is RemovalReason.UNREGISTERED
        async with discovery.view(endpoints(namespace, component)) as view:
            assert len(view) == 0


async def test_a_reader_reads_everything_and_is_refused_nothing(users: Users) -> None:
    async with users.discovery("operator", instance_id=1) as writer, users.discovery("reader") as reader:
        assert await reader.list(endpoints()) == []
        async with reader.list_and_watch(endpoints()) as events, asyncio.timeout(PATIENCE):
            await events.synced()
            mine, other = await writer.register(spec()), await writer.register(spec("other"))
            model = await writer.register(card())
            assert {await anext(events), await anext(events)} == {Added(mine), Added(other)}
            assert await reader.list(endpoints("s.hop", "cart", "pay")) == [mine]
            assert await reader.list(models()) == [model]
            await writer.unregister(mine)
            assert await anext(events) == Removed(mine.id, RemovalReason.UNREGISTERED)
    assert users.complaints == []


async def test_a_reader_waits_for_a_bucket_that_is_not_there(users: Users) -> None:
    async with users.client("admin") as client:
        await client.jetstream().delete_stream("KV_v1_instances")
    async with users.discovery("reader") as reader, users.discovery("operator") as operator:
        assert await reader.list(endpoints()) == []
        async with reader.list_and_watch(endpoints()) as events, asyncio.timeout(PATIENCE):
            await events.synced()
            mine = await operator.register(spec())
            assert await anext(events) == Added(mine)
    assert users.refused["reader"] == []


async def test_a_large_snapshot_is_flow_controlled_without_a_refusal(users: Users) -> None:
    """Flow control is answered on `$JS.FC`."""
    async with users.discovery("operator") as operator, users.discovery("reader") as reader:
        filler = "x" * 60_000
        for number in range(200):
            await operator.register(
                EndpointSpec(
                    "s.hop", "cart", f"e{number}", transport=Transport.nats("x"), metadata={"filler": filler}
                ),
                lease_ttl=None,
            )
        assert len(await reader.list(endpoints())) == 200
    assert users.refused["reader"] == []


async def test_a_reader_cannot_write_anything(users: Users) -> None:
    async with users.discovery("operator", instance_id=1) as owner, users.discovery("reader") as reader:
        mine = await owner.register(spec())
        with pytest.raises(PermissionDeniedError):
            await reader.register(EndpointSpec("s.hop", "cart", "new", transport=Transport.nats("x")))
        with pytest.raises(PermissionDeniedError):
            await reader.unregister(mine)
        with pytest.raises(PermissionDeniedError):
            await reader.update(mine, metadata={"a": 1})
        with pytest.raises(PermissionDeniedError):
            await reader.drain(mine)
        async with users.client("reader") as client:
            await all_refused(
                users.refused["reader"],
                client,
                "$KV.v1_instances.s=2Ehop.cart.pay.1",
                "$NATSDISC.LEASE.v1_instances.s=2Ehop.cart.pay.1",
                "$NATSDISC.LEASE.v1_mdc.s=2Ehop.cart.pay.1",
                *(
                    f"$JS.API.STREAM.{verb}.KV_v1_instances"
                    for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "SNAPSHOT", "RESTORE", "MSG.DELETE")
                ),
                "$JS.API.CONSUMER.DURABLE.CREATE.KV_v1_instances.x",
                "$JS.API.CONSUMER.CREATE.KV_v1_instances",
                "$JS.API.CONSUMER.NAMES.KV_v1_instances",
                "$JS.API.STREAM.CREATE.other",
            )
        assert await owner.list(endpoints()) == [mine]
        assert owner.stats().fence_failures == 0


async def heard_by_the_server(client: nats.NATS) -> None:
    """Everything sent before has reached the server, and its refusals have reached us."""
    await client.flush()  # this ping may overtake what nats-py has buffered
    await client.flush()


async def all_refused(refused: list[str], client: nats.NATS, *subjects: str) -> None:
    for subject in subjects:
        refused.clear()
        await client.publish(subject, b"")
        await heard_by_the_server(client)
        assert any(f'publish to "{subject.lower()}"' in text.lower() for text in refused), subject


async def test_a_namespace_reader_sees_only_its_namespace(users: Users) -> None:
    async with (
        users.discovery("operator", instance_id=1) as writer,
        users.discovery("shop-reader") as reader,
    ):
        mine, other = await writer.register(spec()), await writer.register(spec("other"))
        model = await writer.register(card())
        await writer.register(card("other"))
        assert await reader.list(endpoints("s.hop")) == [mine]
        assert await reader.list(models("s.hop", "cart")) == [model]
        async with reader.list_and_watch(endpoints("s.hop")) as events, asyncio.timeout(PATIENCE):
            assert await anext(events) == Added(mine)
            await writer.unregister(other)
            await writer.unregister(mine)
            assert await anext(events) == Removed(mine.id, RemovalReason.UNREGISTERED)
        assert users.refused["shop-reader"] == []
        for query in (endpoints(), endpoints("other"), models(), endpoints("s"), endpoints("s.hop2")):
            with pytest.raises(PermissionDeniedError):
                await reader.list(query)


async def test_a_namespace_reader_finds_no_way_round(users: Users) -> None:
    async with users.discovery("operator", instance_id=1) as writer:
        await writer.register(spec())
        await writer.register(spec("other"))
        async with users.client("shop-reader") as client:
            await all_refused(
                users.refused["shop-reader"],
                client,
                "$JS.API.STREAM.INFO.KV_v1_instances",
                "$JS.API.STREAM.MSG.GET.KV_v1_instances",
                "$JS.API.DIRECT.GET.KV_v1_instances.$KV.v1_instances.other.cart.pay.1",
                "$JS.API.CONSUMER.CREATE.KV_v1_instances.x",
                "$JS.API.CONSUMER.CREATE.KV_v1_instances.x.$KV.v1_instances.other.>",
                "$JS.API.CONSUMER.CREATE.KV_v1_instances.x.$KV.v1_instances.>",
                "$JS.API.CONSUMER.MSG.NEXT.KV_v1_instances.x",
            )
            # The filter in the subject is the filter: the body cannot say another.
            inside = "$KV.v1_instances.s=2Ehop.>"
            for filters in (
                {"filter_subject": "$KV.v1_instances.>"},
                {"filter_subjects": ["$KV.v1_instances.>"]},
                {"filter_subject": inside, "filter_subjects": ["$KV.v1_instances.other.>"]},
            ):
                settings = {"name": "x", "deliver_subject": client.new_inbox(), "ack_policy": "none"}
                body = {"stream_name": "KV_v1_instances", "config": {**settings, **filters}}
                answer = await client.request(
                    f"$JS.API.CONSUMER.CREATE.KV_v1_instances.x.{inside}", json.dumps(body).encode()
                )
                assert "error" in json.loads(answer.data), filters


async def test_others_inboxes_are_out_of_reach_with_a_prefix_of_ones_own(users: Users) -> None:
    async with users.client("shop-reader") as client:
        for subject in ("_INBOX.>", "_INBOX_reg.>", "$KV.>", ">"):
            users.refused["shop-reader"].clear()
            subscription = await client.subscribe(subject)
            await heard_by_the_server(client)
            assert users.refused["shop-reader"], subject
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()


@pytest.mark.parametrize(
    ("user", "namespace", "component"),
    [
        ("registrar", "s.hop", "cart"),
        ("registrar", "s.hop", "a b"),
        ("cart-registrar", "s.hop", "cart"),
        ("operator", "any", "thing"),
    ],
)
async def test_a_registrar_does_all_of_its_work_and_is_refused_nothing(
    users: Users, user: str, namespace: str, component: str
) -> None:
    async with users.discovery(user) as discovery:
        await everything_a_registrar_does(discovery, namespace, component)
    assert users.complaints == []


async def test_a_registrar_registers_again_what_was_taken_away(users: Users) -> None:
    async with users.discovery("registrar", instance_id=1) as owner, users.discovery("operator") as operator:
        mine = await owner.register(spec())
        await operator.unregister(mine)
        await eventually(lambda: owner.stats().reregistrations == 1, PATIENCE)
        assert await operator.list(endpoints()) == [mine]
    assert users.complaints == []


async def test_a_registrar_needs_the_buckets_unless_it_may_make_them(users: Users) -> None:
    async with users.client("admin") as client:
        await client.jetstream().delete_stream("KV_v1_instances")
    async with users.discovery("registrar") as discovery:
        with pytest.raises(PermissionDeniedError, match=r"STREAM\.CREATE"):
            await discovery.register(spec())
    async with users.discovery("creator", bucket_prefix="new") as discovery:
        await everything_a_registrar_does(discovery, "s.hop", "cart")
    assert users.refused["creator"] == []


async def test_the_operator_makes_extends_and_cleans_buckets(users: Users, guarded: NatsServer) -> None:
    async with users.client("admin") as client:
        for bucket in BUCKETS.values():
            await client.jetstream().delete_stream(f"KV_{bucket}")
        await client.jetstream().create_key_value(bucket="v1_instances")
    options = users.options("operator")
    async with await Admin.connect(guarded.url, options) as admin:
        for bucket in BUCKETS.values():
            await admin.make(bucket)
            state = await admin.state(bucket)
            assert state is not None
            assert state.leases
        async with users.discovery("operator", instance_id=1) as operator:
            await operator.register(spec(), lease_ttl=None)
            key = "s=2Ehop.cart.pay.1"
            assert await admin.values("v1_instances") == {
                key: natsdisc.wire.dumps(spec().with_instance_id(1))
            }
            assert await admin.keys("v1_instances") == {key}
            assert await admin.leases("v1_instances") == set()
            stored = await Inspector(admin).last("v1_instances", key)
            assert stored is not None
            await admin.delete("v1_instances", key, stored.sequence)
            assert await operator.list(endpoints()) == []
    assert users.complaints == []


VICTIM = "other.cart.pay.1"
KEY, LEASE = f"$KV.v1_instances.{VICTIM}", f"$NATSDISC.LEASE.v1_instances.{VICTIM}"


@pytest.mark.parametrize("user", ["registrar", "cart-registrar", "elsewhere"])
async def test_a_registrar_cannot_touch_what_is_not_its_own(users: Users, user: str) -> None:
    component = "basket"  # of the same namespace, for the registrar of one component
    namespace = "s.hop" if user == "cart-registrar" else "other"
    theirs = EndpointSpec(namespace, component, "pay", transport=Transport.nats("x"))
    async with users.discovery("operator", instance_id=1) as owner, users.discovery(user) as registrar:
        mine = await owner.register(theirs)
        with pytest.raises(PermissionDeniedError):
            await registrar.register(theirs)
        with pytest.raises(PermissionDeniedError):
            await registrar.unregister(mine)
        with pytest.raises(PermissionDeniedError):
            await registrar.update(mine, metadata={"a": 1})
        async with users.client(user) as client:
            token = namespace.replace(".", "=2E")
            await all_refused(
                users.refused[user],
                client,
                f"$KV.v1_instances.{token}.{component}.pay.1",
                f"$NATSDISC.LEASE.v1_instances.{token}.{component}.pay.1",
                *(
                    f"$JS.API.STREAM.{verb}.KV_v1_instances"
                    for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "SNAPSHOT", "RESTORE", "MSG.DELETE")
                ),
            )
        assert await owner.list(endpoints()) == [mine]
        assert owner.stats().fence_failures == 0


class Victim:
    """An owner, its entry under a lease, and a watcher, while somebody attacks."""

    def __init__(self, owner: Discovery, watcher: Discovery, watch: natsdisc.Watch) -> None:
        self.owner, self.watcher, self.watch = owner, watcher, watch
        self.entry = spec("other").with_instance_id(1)

    async def is_put_back(self) -> None:
        """The owner's next heartbeat notices, and the registry is as it was, lease included."""
        await eventually(lambda: self.owner.stats().reregistrations >= 1, PATIENCE)
        assert await self.watcher.list(endpoints("other")) == [self.entry]
        [registration] = self.owner.registrations
        assert registration.state is natsdisc.State.ACTIVE

    async def heard_nothing(self) -> None:
        """The watcher heard of nothing but a mark that is set now."""
        marker = await self.owner.register(
            EndpointSpec("other", "mark", "er", transport=Transport.nats("x")), lease_ttl=None
        )
        async with asyncio.timeout(PATIENCE):
            assert await anext(self.watch) == Added(marker)


@pytest.fixture
async def victim(users: Users) -> AsyncIterator[Victim]:
    async with (
        users.discovery("operator", instance_id=1) as owner,
        users.discovery("reader") as watcher,
        watcher.list_and_watch(endpoints("other")) as watch,
    ):
        victim = Victim(owner, watcher, watch)
        assert await owner.register(spec("other")) == victim.entry
        async with asyncio.timeout(PATIENCE):
            assert await anext(watch) == Added(victim.entry)
        yield victim


@pytest.fixture
async def attacker(users: Users) -> AsyncIterator[nats.NATS]:
    """A registrar of another namespace, who speaks NATS."""
    async with users.client("registrar") as client:
        yield client
    assert users.refused["registrar"] == [], "the attack was not one"


OWN_KEY = "$KV.v1_instances.s=2Ehop.cart.pay.6"
OWN_LEASE = "$NATSDISC.LEASE.v1_instances.s=2Ehop.cart.pay.6"
FREE_LEASE = "$NATSDISC.LEASE.v1_instances.other.cart.pay.2"  # where no owner puts anything back
DUE = "@at 2020-01-01T00:00:00Z"


async def attack(client: nats.NATS, subject: str, headers: dict[str, str], payload: bytes = b"") -> None:
    answer = json.loads((await client.request(subject, payload, headers=headers)).data)
    assert "error" not in answer, answer


@pytest.mark.parametrize("payload", [b"", natsdisc.wire.dumps(spec("other").with_instance_id(1))])
@pytest.mark.parametrize("operation", [{"KV-Operation": "DEL"}, {"KV-Operation": "PURGE"}, {}])
async def test_a_forged_schedule_moves_no_watcher(
    victim: Victim, attacker: nats.NATS, operation: dict[str, str], payload: bytes
) -> None:
    """A schedule under one's own lease may name any target of the stream: nobody believes what it writes."""
    headers = {"Nats-Schedule": DUE, "Nats-Schedule-Target": KEY, **operation}
    await attack(attacker, OWN_LEASE, headers, payload)
    await victim.is_put_back()
    await victim.heard_nothing()
    assert victim.watcher.stats().forged >= 1


@pytest.mark.parametrize(
    "more",
    [
        {"nats-scheduler": LEASE},  # the server writes its own beside it
        {"Nats-Scheduler": LEASE, "Nats-Schedule-Next": "purge"},
        {"Nats-Schedule-TTL": "1s"},
        {"Nats-Schedule-Rollup": "sub"},
        {"Nats-Marker-Reason": "MaxAge"},
        {"Nats-Expected-Last-Subject-Sequence": "0"},
        {"Natsdisc-Owner": "1", "Natsdisc-Reason": "unregistered"},
    ],
    ids=lambda more: next(iter(more)),
)
async def test_no_header_makes_a_forged_schedule_credible(
    victim: Victim, attacker: nats.NATS, more: dict[str, str]
) -> None:
    headers = {"Nats-Schedule": DUE, "Nats-Schedule-Target": KEY, "KV-Operation": "DEL", **more}
    await attack(attacker, OWN_LEASE, headers)
    await victim.is_put_back()
    await victim.heard_nothing()
    assert victim.watcher.stats().forged >= 1


async def test_a_schedule_cannot_name_another_scheduler(victim: Victim, attacker: nats.NATS) -> None:
    headers = {"Nats-Schedule": DUE, "Nats-Schedule-Target": KEY, "Nats-Scheduler": LEASE}
    answer = json.loads((await attacker.request(OWN_LEASE, b"", headers=headers)).data)
    assert "invalid scheduler" in answer["error"]["description"]
    await victim.heard_nothing()


async def test_a_forged_schedule_that_repeats_moves_no_watcher(
    victim: Victim, attacker: nats.NATS, users: Users
) -> None:
    """Listings may miss the entry for as long as this goes on: it is one of the limits."""
    headers = {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": KEY, "KV-Operation": "DEL"}
    await attack(attacker, OWN_LEASE, headers)
    await eventually(lambda: victim.watcher.stats().forged >= 3, PATIENCE)
    await victim.heard_nothing()
    async with users.client("admin") as client:
        await client.jetstream().purge_stream("KV_v1_instances", subject=OWN_LEASE)

    async def whole() -> bool:
        return await victim.watcher.list(endpoints("other", "cart")) == [victim.entry]

    await eventually(whole, PATIENCE)
    assert victim.owner.registrations[0].state is natsdisc.State.ACTIVE


async def test_a_copied_schedule_is_none(victim: Victim, attacker: nats.NATS, users: Users) -> None:
    """A schedule whose source is another one puts none on somebody's lease, where it would be credible."""
    own = {"Nats-Schedule": "@at 2100-01-01T00:00:00Z", "Nats-Schedule-Target": KEY, "KV-Operation": "DEL"}
    await attack(attacker, OWN_LEASE, own)
    copy = {"Nats-Schedule": DUE, "Nats-Schedule-Target": FREE_LEASE, "Nats-Schedule-Source": OWN_LEASE}
    await attack(attacker, OWN_LEASE + "0", copy)
    async with users.client("admin") as client:
        question = json.dumps({"last_by_subj": FREE_LEASE}).encode()

        async def arrived() -> bytes | None:
            answer = await client.request("$JS.API.STREAM.MSG.GET.KV_v1_instances", question)
            message = json.loads(answer.data).get("message")
            return base64.b64decode(message["hdrs"]) if message else None

        headers = await eventually(arrived, PATIENCE)
    assert b"Nats-Schedule:" not in headers
    assert b"Nats-Schedule-Target:" not in headers
    await victim.heard_nothing()


async def test_a_rollup_of_everything_moves_no_watcher(victim: Victim, attacker: nats.NATS) -> None:
    """A bucket takes rollups (ADR-8), and one of them clears the whole stream."""
    await attack(attacker, OWN_KEY, {"Nats-Rollup": "all"})
    await victim.is_put_back()
    await victim.heard_nothing()


async def test_a_purged_lease_is_back_with_the_next_heartbeat(
    victim: Victim, attacker: nats.NATS, users: Users
) -> None:
    """The end of a schedule may name any schedule (ADR-51)."""
    async with users.client("admin") as client:
        js = client.jetstream()

        async def leased() -> bool:
            try:
                await js.get_last_msg("KV_v1_instances", LEASE)
            except nats.js.errors.NotFoundError:
                return False
            except TypeError:  # nats-py cannot read a message without a payload
                return True
            return True

        assert await leased()
        end = {"KV-Operation": "DEL", "Nats-Scheduler": LEASE, "Nats-Schedule-Next": "purge"}
        await attack(attacker, OWN_KEY, end)
        await eventually(leased, PATIENCE)
    await victim.heard_nothing()
    assert victim.owner.stats().fence_failures == 0


async def test_the_end_of_a_schedule_cannot_purge_a_value(victim: Victim, attacker: nats.NATS) -> None:
    end = {"KV-Operation": "DEL", "Nats-Scheduler": KEY, "Nats-Schedule-Next": "purge"}
    answer = json.loads((await attacker.request(OWN_KEY, b"", headers=end)).data)
    assert "error" in answer
    assert await victim.watcher.list(endpoints("other")) == [victim.entry]


async def test_a_value_for_another_place_is_not_believed(victim: Victim, attacker: nats.NATS) -> None:
    await attack(attacker, OWN_KEY, {}, natsdisc.wire.dumps(victim.entry))
    assert await victim.watcher.list(endpoints()) == [victim.entry]
    await victim.heard_nothing()


async def test_a_consumer_cannot_deliver_into_a_bucket(
    victim: Victim, attacker: nats.NATS, users: Users
) -> None:
    """A push consumer's deliver subject is not checked against permissions; a stream is no listener."""
    model = await victim.owner.register(card("other"))
    await attack(attacker, OWN_KEY, {"KV-Operation": "DEL"}, b"forged")
    inside = "$KV.v1_instances.s=2Ehop.>"
    for target in (KEY, "$KV.v1_mdc.other.cart.pay.1.a=20b"):
        settings = {
            "name": "forge",
            "deliver_subject": target,
            "ack_policy": "none",
            "deliver_policy": "last_per_subject",
            "filter_subject": inside,
        }
        body = {"stream_name": "KV_v1_instances", "config": settings}
        await attacker.request(
            f"$JS.API.CONSUMER.CREATE.KV_v1_instances.forge.{inside}", json.dumps(body).encode()
        )
    await victim.heard_nothing()
    assert await victim.watcher.list(models("other")) == [model]
    assert await victim.watcher.list(endpoints("other", "cart")) == [victim.entry]
    assert victim.owner.stats().fence_failures == 0


@pytest.mark.parametrize("user", ["registrar", "reader", "elsewhere"])
@pytest.mark.parametrize("subject", [KEY, LEASE])
async def test_rubbish_by_an_answer_is_put_right_by_the_owner(
    victim: Victim, users: Users, user: str, subject: str
) -> None:
    """Not protected by NATS: the answer to a request goes to any subject of the account the asker names."""
    bucket = "other_v1_instances" if user == "elsewhere" else "v1_instances"
    async with users.client(user) as client:
        await client.publish(f"$JS.API.CONSUMER.INFO.KV_{bucket}.none", b"", reply=subject)
        await heard_by_the_server(client)
        assert users.refused[user] == []
    if subject == KEY:
        await victim.is_put_back()
    before = victim.owner.stats().heartbeats
    await eventually(lambda: victim.owner.stats().heartbeats > before + 1, PATIENCE)
    assert await victim.watcher.list(endpoints("other")) == [victim.entry]
    assert victim.owner.registrations[0].state is natsdisc.State.ACTIVE


async def test_another_bucket_prefix_is_another_world(users: Users) -> None:
    """What to use instead where permissions are not enough."""
    async with users.discovery("operator") as owner, users.discovery("elsewhere") as stranger:
        await owner.register(spec())
        with pytest.raises(PermissionDeniedError):
            await stranger.list(endpoints())
    async with users.client("elsewhere") as client:
        await all_refused(
            users.refused["elsewhere"],
            client,
            "$JS.API.STREAM.MSG.GET.KV_v1_instances",
            "$JS.API.STREAM.INFO.KV_v1_instances",
            KEY,
        )


async def test_a_namespace_reader_is_refused_only_its_look_at_an_empty_bucket(users: Users) -> None:
    """The stream's description would tell the keys of all namespaces."""
    async with users.discovery("shop-reader") as reader:
        assert await reader.list(endpoints("s.hop")) == []
    assert all("stream.info" in text.lower() for text in users.refused["shop-reader"])


def test_bad_arguments() -> None:
    with pytest.raises(InvalidQueryError):
        permissions(Role.OPERATOR, namespace="shop")
    with pytest.raises(InvalidQueryError):
        permissions(Role.READER, component="cart")
    with pytest.raises(InvalidNameError):
        permissions(Role.READER, bucket_prefix="a b")
    for inbox in ("", "a..b", "a.*", ">", "a b", 'a"b', "a\nb"):
        with pytest.raises(InvalidNameError):
            permissions(Role.READER, inbox_prefix=inbox)


@pytest.mark.parametrize("role", list(Role))
def test_the_forms_say_the_same(role: Role) -> None:
    allowed = permissions(role)
    assert allowed.as_dict()["publish"] == {"allow": list(allowed.publish)}
    flags = allowed.as_nsc().replace("\\\n", "").split()
    assert flags[1::2] == [f"'{subject}'" for subject in (*allowed.publish, *allowed.subscribe)]
    for subject in (*allowed.publish, *allowed.subscribe):
        assert json.dumps(subject) in allowed.as_conf()
    assert (">" in allowed.publish) is False


async def test_errors_of_the_tools_connection(users: Users, guarded: NatsServer) -> None:
    async with await Admin.connect(guarded.url, users.options("shop-reader")) as admin:
        with pytest.raises(PermissionDeniedError):
            await admin.state("v1_instances")
        assert not await admin.may_publish(KEY)
        assert not await admin.may_subscribe("_INBOX.x")
    with pytest.raises(DiscoveryError):
        await admin.round_trip()
    with pytest.raises(StoreUnavailableError):
        await Admin.connect("nats://127.0.0.1:1", {})
