"""The page in a real browser: live rows, filters, hostile names, a lost server, 10,000 rows."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nats
import pytest

import natsdisc
from natsdisc import EndpointSpec, Transport, wire
from natsdisc.keys import key_of
from natsdisc.server import NatsServer
from tests.programs import running
from tests.rig import eventually

if TYPE_CHECKING:
    from playwright import async_api as playwright
else:
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is in the extra `test`")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
PATIENCE_MS = 60_000
HOSTILE = "<img src=x onerror=document.title='taken'>"


@dataclass
class Opened:
    """A page on a registry, and what went wrong in it."""

    page: playwright.Page
    url: str
    server: NatsServer
    errors: list[str]

    async def rows(self) -> int:
        text = await self.page.text_content("#summary")
        return int((text or "0").split()[0]) if (text or "x")[0].isdigit() else -1

    async def wait(self, script: str) -> None:
        # Not `wait_for_function`, which the page's own security policy forbids.
        await eventually(lambda: self.page.evaluate(f"() => {script}"), PATIENCE_MS / 1000)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@asynccontextmanager
async def opened(*options: str) -> AsyncIterator[Opened]:
    port = free_port()
    with NatsServer() as server:
        arguments = ("ui", "--port", str(port), "--server", server.url, *options)
        async with (
            running("natsdisc.cli", *arguments) as program,
            playwright.async_playwright() as driver,
        ):
            browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = await (await browser.new_context()).new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            url = await program.read()
            await page.goto(url)
            await page.wait_for_selector("body[data-ready]", timeout=PATIENCE_MS)
            yield Opened(page, url, server, errors)
            await browser.close()
            assert errors == []


def spec(endpoint: str, component: str = "cart") -> EndpointSpec:
    return EndpointSpec("shop", component, endpoint, transport=Transport.http("http://10.0.0.1:80"))


async def test_live_rows_filters_links_and_hostile_names() -> None:
    async with opened("--allow", "drain") as ui, natsdisc.connect(ui.server.url) as discovery:
        page = ui.page
        mine = await discovery.register(spec("checkout"))
        await discovery.register(spec("search"))
        await discovery.register(spec(HOSTILE, "evil"))
        await ui.wait("document.querySelectorAll('.row').length === 3")
        assert await page.title() == "natsdisc"
        assert await page.locator(".row img").count() == 0

        await page.keyboard.press("/")
        await page.keyboard.type("checkout")
        await ui.wait("document.querySelectorAll('.row').length === 1")
        await page.click(".row")
        await page.wait_for_selector("#detail pre")
        assert str(mine.instance_id) in (await page.text_content("#detail pre") or "")

        # A deep link shows the same in a new page.
        again = await page.context.new_page()
        await again.goto(page.url)
        await again.wait_for_selector("#detail pre", timeout=PATIENCE_MS)
        assert await again.locator(".row").count() == 1
        await again.close()

        await page.click("#detail button:has-text('drain')")
        await ui.wait("document.querySelector('.row .draining') !== null")
        assert (await discovery.list(natsdisc.endpoints("shop", "cart", "checkout")))[0].status == "draining"
        await discovery.unregister(mine)
        await ui.wait("document.querySelectorAll('.row').length === 0")
        await ui.wait("document.querySelector('#timeline .unregistered') !== null")


async def test_the_keyboard_alone() -> None:
    async with opened() as ui, natsdisc.connect(ui.server.url) as discovery:
        for name in ("a", "b", "c"):
            await discovery.register(spec(name))
        await ui.wait("document.querySelectorAll('.row').length === 3")
        await ui.page.focus("#scroll")
        await ui.page.keyboard.press("ArrowDown")
        await ui.page.keyboard.press("ArrowDown")
        await ui.wait("document.querySelector('.row[aria-selected=true] span')?.textContent.endsWith('/ b')")
        await ui.page.wait_for_selector("#detail pre")
        await ui.page.keyboard.press("Escape")
        await ui.wait("document.querySelector('#detail').hidden")


async def test_a_lost_server_is_said_boldly_and_repairs_itself() -> None:
    async with opened() as ui, natsdisc.connect(ui.server.url) as discovery:
        await discovery.register(spec("checkout"))
        await ui.wait("document.querySelectorAll('.row').length === 1")
        assert await ui.page.is_hidden("#alarm")
        await asyncio.to_thread(ui.server.suspend)
        try:
            await ui.wait("document.querySelector('#alarm').textContent.includes('does not answer')")
            assert await ui.page.locator(".row").count() == 1  # the last picture stays
        finally:
            await asyncio.to_thread(ui.server.resume)
        await ui.wait("document.querySelector('#alarm').hidden")


async def test_ten_thousand_rows() -> None:
    async with opened() as ui, natsdisc.connect(ui.server.url) as discovery:
        await discovery.register(spec("e0"))  # makes the bucket
        nc = await nats.connect(ui.server.url)
        for number in range(1, 10_000):
            instance = spec(f"e{number}").with_instance_id(number)
            await nc.publish(f"$KV.v1_instances.{key_of(instance.id)}", wire.dumps(instance))
        await nc.flush()
        await nc.close()
        await ui.wait("document.querySelector('#summary').textContent.startsWith('10000 ')")
        # Only what is in sight exists as elements.
        assert await ui.page.locator(".row").count() < 200
        await ui.page.focus("#scroll")
        await ui.page.keyboard.press("End")
        await ui.wait("document.querySelector('.row[aria-selected=true][aria-posinset=\"10000\"]') !== null")
        await ui.page.fill("#search", "e4242")
        await ui.wait("document.querySelectorAll('.row').length === 1")
