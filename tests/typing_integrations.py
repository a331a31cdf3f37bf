"""Only for mypy: what users of the integrations write, without a cast."""

from __future__ import annotations

from typing import assert_type

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette

import natsdisc
import natsdisc.sync
from natsdisc import EndpointInstance, EndpointSpec, ModelInstance, Transport, endpoints, models
from natsdisc.integrations.httpx import DiscoveryTransport, SyncDiscoveryTransport
from natsdisc.integrations.micro import Registered, register
from natsdisc.integrations.starlette import DiscoveryLifespan

SPEC = EndpointSpec("shop", "cart", "pay", transport=Transport.http("http://a"))


def without_asyncio() -> str:
    with natsdisc.sync.connect(wait=1) as discovery:
        assert_type(discovery, natsdisc.sync.Discovery)
        assert_type(discovery.register(SPEC, timeout=5, lease_ttl=3.0), EndpointInstance)
        assert_type(discovery.list(endpoints("shop")), list[EndpointInstance])
        assert_type(discovery.list(models("shop")), list[ModelInstance])
        with discovery.view(endpoints("shop")) as view:
            assert_type(view, natsdisc.sync.View[EndpointInstance])
            assert_type(view.pick(), EndpointInstance)
            assert_type(view.instances, tuple[EndpointInstance, ...])
            assert_type(view.call(lambda one: len(one.endpoint)), int)
            with view.using(timeout=1) as used:
                assert_type(used, EndpointInstance)
        with discovery.list_and_watch(endpoints("shop")) as events:
            for event in events:
                assert_type(event, natsdisc.Event)
        return str(discovery.update(view.pick(), metadata={}).transport.address)


async def http(discovery: natsdisc.Discovery) -> None:
    transport = DiscoveryTransport(discovery, attempts=2, hosts={"pay": endpoints("shop")}, verify=False)
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("http://pay.cart.shop/")


def blocking_http(blocking: natsdisc.sync.Discovery) -> None:
    with httpx.Client(mounts={"all://*.shop": SyncDiscoveryTransport(blocking)}) as other:
        other.get("http://pay.cart.shop/")


async def micro(discovery: natsdisc.Discovery, service: object) -> None:
    registered = await register(discovery, service, namespace="shop", drain=1.0, lease_ttl=3.0)
    assert_type(registered, Registered)
    assert_type(registered.instances, tuple[EndpointInstance, ...])


def web() -> None:
    lifespan = DiscoveryLifespan(SPEC, drain=2.0, servers="nats://a", bucket_prefix="b")
    app = FastAPI(lifespan=lifespan)
    app.add_route("/ready", lifespan.ready)
    Starlette(lifespan=lifespan)
    assert_type(lifespan.discovery, natsdisc.Discovery)
