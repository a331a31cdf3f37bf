"""What an operator sees: metrics and log fields, from real registries on a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import nats
import prometheus_client
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

import natsdisc
from natsdisc import EndpointSpec, Transport, endpoints
from natsdisc.integrations.otel import instrument
from natsdisc.integrations.prometheus import DiscoveryCollector
from natsdisc.measure import MEASURES
from natsdisc.server import NatsServer
from natsdisc.store import ResyncReason
from natsdisc.testing import crash
from tests.rig import eventually

PATIENCE = 30.0
SHOP = endpoints("shop")
STANDARD_FIELDS = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def spec(endpoint: str = "checkout", *, at: str = "a") -> EndpointSpec:
    return EndpointSpec("shop", "cart", endpoint, transport=Transport.nats(at))


@dataclass
class World:
    """A service that was healed once, beside a client that has seen rubbish and a server restart."""

    server: NatsServer
    service: natsdisc.Discovery
    view: natsdisc.View[natsdisc.EndpointInstance]


@pytest.fixture
async def world(caplog: pytest.LogCaptureFixture) -> AsyncIterator[World]:
    caplog.set_level(logging.INFO, "natsdisc")
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url, lease_ttl=1, expiry_grace=0) as service,
        natsdisc.connect(server.url) as other,
        service.view(SHOP) as view,
    ):
        mine = await service.register(spec())
        await service.register(spec("refund"))
        await other.unregister(mine)  # and the owner puts it back
        await eventually(lambda: service.stats().reregistrations == 1, PATIENCE)
        nc = await nats.connect(server.url)
        await nc.jetstream().publish("$KV.v1_instances.shop.cart.checkout.junk", b"{}")
        await nc.close()
        await eventually(lambda: service.stats().invalid, PATIENCE)
        await asyncio.to_thread(server.restart)
        await eventually(lambda: service.stats().resyncs, PATIENCE)
        await eventually(lambda: view.age < 2 and "in sync again" in caplog.text, PATIENCE)
        await eventually(lambda: view.synced and len(view) == 2, PATIENCE)
        # The bucket was in memory: both are made again.
        await eventually(lambda: service.stats().reregistrations >= 3, PATIENCE)
        await eventually(lambda: service.stats().renewals.count and len(view) == 2, PATIENCE)
        yield World(server, service, view)


async def test_what_stats_show(world: World) -> None:
    stats = world.service.stats()
    assert stats.registrations == {"pending": 0, "active": 2, "recovering": 0, "lost": 0, "failed": 0}
    assert list(stats.queries) == [SHOP]
    picture = stats.queries[SHOP]
    assert (picture.instances, picture.synced) == (2, True)
    assert 0 <= picture.age < PATIENCE
    assert 0 < stats.renewals.count <= stats.heartbeats
    assert 0 < stats.renewals.longest <= stats.renewals.seconds
    assert stats.renewals.longest >= stats.renewals.seconds / stats.renewals.count
    await world.view.aclose()
    assert world.service.stats().queries == {}
    assert stats.queries[SHOP] is picture  # a copy stays what it was
    with pytest.raises(TypeError):
        stats.queries[SHOP] = picture  # type: ignore[index]


async def test_prometheus_scrapes_it_from_a_thread_of_its_own(world: World) -> None:
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    registry.register(DiscoveryCollector(world.service))
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        before = world.service.stats()
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        after = world.service.stats()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["natsdisc_instances", "endpoints/shop"] == 2
    assert found["natsdisc_synced", "endpoints/shop"] == 1
    assert 0 <= found["natsdisc_staleness_seconds", "endpoints/shop"] < PATIENCE
    assert found["natsdisc_registrations", "active"] == 2
    assert found["natsdisc_registrations", "lost"] == 0
    assert found["natsdisc_reregistrations_total",] == after.reregistrations >= 1
    assert found["natsdisc_fence_failures_total",] == after.fence_failures >= 1
    assert found["natsdisc_invalid_total",] == after.invalid >= 1
    assert found["natsdisc_events_total",] == found["natsdisc_conflated_total",] == 0
    assert found["natsdisc_forged_total",] == 0
    assert sum(found["natsdisc_resyncs_total", str(reason)] for reason in ResyncReason) >= 1
    assert before.heartbeats <= found["natsdisc_heartbeats_total",] <= after.heartbeats
    assert before.renewals.count <= found["natsdisc_renewals_total",] <= after.renewals.count
    assert before.renewals.seconds <= found["natsdisc_renewal_seconds_total",] <= after.renewals.seconds
    assert found["natsdisc_longest_renewal_seconds",] > 0
    assert "# TYPE natsdisc_resyncs_total counter" in text
    assert "# TYPE natsdisc_staleness_seconds gauge" in text
    assert text.count("# HELP natsdisc_") == len(MEASURES)


async def test_opentelemetry_reads_the_same(world: World) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrument(world.service, provider.get_meter("shop"))
    data = await asyncio.to_thread(reader.get_metrics_data)
    assert data is not None
    provider.shutdown()
    [metrics] = [scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics]
    found = {
        (metric.name, *(point.attributes or {}).values()): point.value  # type: ignore[union-attr]
        for metric in metrics
        for point in metric.data.data_points
    }
    assert found["natsdisc.instances", "endpoints/shop"] == 2
    assert found["natsdisc.registrations", "active"] == 2
    assert found["natsdisc.reregistrations",] == world.service.stats().reregistrations >= 1
    assert found["natsdisc.renewals",] > 0
    assert {metric.name: metric.unit for metric in metrics}["natsdisc.staleness"] == "s"
    assert len(metrics) == len(MEASURES)
    assert found.keys() >= {("natsdisc.resyncs", str(reason)) for reason in ResyncReason}


async def test_log_records_say_to_whom_it_happened(world: World, caplog: pytest.LogCaptureFixture) -> None:
    id = str(world.view.instances[0].id)
    [removed] = await eventually(lambda: fields(caplog, "reregistered_removed"), PATIENCE)
    assert removed == {"id": id, "count": 1}
    [invalid] = fields(caplog, "invalid")
    assert invalid.pop("error")
    assert invalid == {"key": "shop.cart.checkout.junk", "bucket": "v1_instances"}
    [stale] = fields(caplog, "stale")
    assert stale.pop("error")
    assert stale.pop("reason") in list(ResyncReason)
    assert stale == {"query": "endpoints/shop"}
    [in_sync] = fields(caplog, "in_sync")
    assert in_sync.pop("seconds") > 0
    assert in_sync == {"query": "endpoints/shop"}


async def test_a_lost_registration_is_logged_with_its_id(caplog: pytest.LogCaptureFixture) -> None:
    store = natsdisc.MemoryStore()
    one = natsdisc.Discovery(store, instance_id=1, lease_ttl=1)
    two = natsdisc.Discovery(store, instance_id=1, lease_ttl=1)
    mine = await one.register(spec(at="one"))
    await two.unregister(mine)
    await two.register(spec(at="two"))
    await eventually(lambda: one.stats().registrations["lost"], PATIENCE)
    assert one.stats().registrations == {"pending": 0, "active": 0, "recovering": 0, "lost": 1, "failed": 0}
    assert fields(caplog, "lost") == [{"id": "shop/cart/checkout/1"}]
    await crash(two)
    await one.close()


def fields(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The fields of every record of `event`, each a text or a number, without their prefix."""
    found = []
    for record in (*caplog.get_records("setup"), *caplog.get_records("call")):
        if not record.name.startswith("natsdisc"):
            continue
        extra = {name: value for name, value in vars(record).items() if name not in STANDARD_FIELDS}
        assert all(name.startswith("natsdisc_") for name in extra)
        json.dumps(extra)
        named = {name.removeprefix("natsdisc_"): value for name, value in extra.items()}
        if named.pop("event") == event:  # every record has one
            found.append(named)
    return found
