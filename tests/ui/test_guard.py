"""The requests that the page refuses: other names, other sites, no token, actions that are not allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

import natsdisc
from natsdisc import EndpointInstance, EndpointSpec, Status, Transport
from natsdisc.ui import Access, create_app
from natsdisc.ui.live import Live

OURS = {"X-Natsdisc": "1"}
SPEC = EndpointSpec("shop", "cart", "<b>", transport=Transport.http("http://a"))


@asynccontextmanager
async def opened(access: Access | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, EndpointInstance]]:
    async with natsdisc.Discovery(natsdisc.MemoryStore()) as discovery:
        instance = await discovery.register(SPEC)
        app = create_app(discovery, access)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8228") as client,
        ):
            yield client, instance


def path_of(instance: EndpointInstance) -> str:
    return f"endpoint/shop.cart.=3Cb=3E.{instance.instance_id:x}"


async def test_an_instance_with_ids_in_full() -> None:
    async with opened() as (client, instance):
        found = (await client.get(f"/api/instances/{path_of(instance)}")).json()
        assert found["hex"] == f"{instance.instance_id:x}"
        assert f'"instance_id": {instance.instance_id}' in found["value"]
        assert (await client.get("/api/instances/endpoint/shop.cart.no.1")).status_code == 404
        assert (await client.get("/api/instances/other/shop.cart.no.1")).status_code == 404


@pytest.mark.parametrize("path", ["/", "/api/settings", "/static/app.js"])
async def test_every_answer_has_the_headers_of_a_safe_page(path: str) -> None:
    async with opened() as (client, _):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_name_that_somebody_else_made_up() -> None:
    async with opened() as (client, _):
        assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 421
    async with opened(Access(hosts=frozenset({"registry.example"}))) as (client, _):
        assert (await client.get("/", headers={"Host": "registry.example:443"})).status_code == 200


async def test_a_token() -> None:
    async with opened(Access(token="s3cret", hosts=frozenset())) as (client, _):
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/?token=wrong")).status_code == 401
        answer = await client.get("/api/settings", headers={"Authorization": "Bearer s3cret"})
        assert answer.status_code == 200
        answer = await client.get("/?token=s3cret")
        assert answer.status_code == 303
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert (await client.get("/")).status_code == 200  # by the cookie


async def test_read_only_unless_allowed() -> None:
    async with opened() as (client, instance):
        answer = await client.post(f"/api/drain/{path_of(instance)}", headers=OURS)
        assert (answer.status_code, "--allow drain" in answer.text) == (403, True)


async def test_an_operator() -> None:
    access = Access(allow=frozenset({"drain", "enable", "prune"}))
    async with opened(access) as (client, instance):
        path = path_of(instance)
        assert (await client.post(f"/api/drain/{path}")).status_code == 403  # as a form of another site could
        foreign = {**OURS, "Sec-Fetch-Site": "cross-site"}
        assert (await client.post(f"/api/drain/{path}", headers=foreign)).status_code == 403
        assert (await client.post(f"/api/drain/{path}", headers=OURS)).status_code == 200
        found = (await client.get(f"/api/instances/{path}")).json()
        assert found["status"] == Status.DRAINING
        assert (await client.post(f"/api/enable/{path}", headers=OURS)).status_code == 200
        assert (await client.post(f"/api/prune/{path}", headers=OURS)).status_code == 200
        assert (await client.get(f"/api/instances/{path}")).status_code == 404
        assert (await client.post(f"/api/disable/{path}", headers=OURS)).status_code == 403


async def test_an_id_that_is_no_key() -> None:
    async with opened() as (client, _):
        for path in ("endpoint/a", "endpoint/a.b.c.XYZ", "model/%00", "endpoint/" + "a" * 3000):
            assert (await client.get(f"/api/instances/{path}")).status_code == 404


@pytest.mark.parametrize("wrong", [{"token": ""}, {"allow": frozenset({"dran"})}, {"allow": "drain"}])
def test_rules_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(natsdisc.InvalidValueError):
        Access(**wrong)


async def test_a_host_that_is_no_host() -> None:
    async with opened() as (client, _):
        answer = await client.get("/", headers={"Host": "[::1"})
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (421, "nosniff")


async def test_a_page_that_reads_too_slowly_begins_again() -> None:
    store = natsdisc.MemoryStore()
    async with natsdisc.Discovery(store) as discovery:
        live = Live(discovery)
        async with live.running(), live.page() as page:
            most = page.most
            for number in range(most + 1):
                page.put(f"gone {number}", None)
            assert page.is_behind
            assert len(page.rows) == 0
            live.fill(page)
            assert not page.is_behind
