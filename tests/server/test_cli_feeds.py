"""What feeds other programs: `natsdisc history`, `export prometheus` and `watch --exec`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import natsdisc
from natsdisc import Discovery, EndpointSpec, MemoryStore, Transport, endpoints
from tests.rig import eventually
from tests.server.shell import PATIENCE, Shell, ended, fails, line_of, line_with


def spec(endpoint: str = "checkout", address: str = "10.0.0.7:80", **metadata: Any) -> EndpointSpec:
    return EndpointSpec("shop", "cart", endpoint, transport=Transport.tcp(address), metadata=metadata)


# history


async def test_history(
    shell: Shell, registry: list[str], discovery: Discovery, nats_url: str, prefix: str
) -> None:
    before = await discovery.register(spec("before"))
    fails(await shell.run("history", *registry), 1, "history", "natsdisc history enable")
    with pytest.raises(natsdisc.NoHistoryError):
        await discovery.history(endpoints())
    enabled = await shell.run("history", "enable", "--keep", "1h", "--max-size", "1M", "--json", *registry)
    assert [one["keep_s"] for one in json.loads(enabled.out)] == [3600.0, 3600.0]

    async def copied(count: int) -> list[natsdisc.Change]:
        """The changes, as soon as so many are copied."""
        changes: list[natsdisc.Change] = []

        async def there() -> bool:
            changes[:] = await discovery.history(endpoints("shop", "cart"))
            return len(changes) >= count

        await eventually(there, PATIENCE)
        return changes

    await copied(1)
    mine = await discovery.register(spec())
    await copied(2)
    mine = await discovery.drain(mine)
    await copied(3)
    moment = datetime.now(UTC)
    await discovery.unregister(mine)
    # What doctor leaves behind is nobody's.
    assert (await shell.run("doctor", *registry)).code == 0
    # Its lease ends by itself: the process is killed.
    dying = await shell.start("register", "shop/cart/dies/2", "-t", "tcp=h:1", "--ttl", "1", *registry)
    await line_of(dying.stdout)
    dying.kill()
    changes = await copied(6)
    assert {one.id.namespace for one in await discovery.history(endpoints())} == {"shop"}
    words = [
        (one.id.endpoint, getattr(one.event, "reason", None) and str(one.event.reason))  # type: ignore[union-attr]
        for one in changes
    ]
    assert words == [
        ("before", None),
        ("checkout", None),
        ("checkout", None),
        ("checkout", "unregistered"),
        ("dies", None),
        ("dies", "expired"),
    ]
    assert [one.time for one in changes] == sorted(one.time for one in changes)
    assert changes[3].event == natsdisc.Removed(mine.id, natsdisc.RemovalReason.UNREGISTERED)
    assert isinstance(changes[3].event, natsdisc.Removed)
    assert changes[3].event.last == mine

    shown = await shell.run("history", "shop", *registry)
    assert [line.split()[2:4] for line in shown.out.splitlines()] == [
        ["added", "shop/cart/before/1f"],
        ["added", "shop/cart/checkout/1f"],
        ["changed", "shop/cart/checkout/1f"],
        ["removed", "shop/cart/checkout/1f"],
        ["added", "shop/cart/dies/2"],
        ["removed", "shop/cart/dies/2"],
    ]
    one = json.loads((await shell.run("history", "shop/cart/dies", "--json", "--since", "1h", *registry)).out)
    assert [(event["event"], event["id"]) for event in one] == [
        ("added", "shop/cart/dies/2"),
        ("removed", "shop/cart/dies/2"),
    ]
    then = await shell.run("history", "--at", moment.isoformat(), "--json", *registry)
    assert {instance["id"]: instance.get("status") for instance in json.loads(then.out)} == {
        "shop/cart/before/1f": None,
        "shop/cart/checkout/1f": "draining",
    }
    # The registry itself does without it.
    dry = await shell.run("history", "disable", *registry)
    assert dry.out.splitlines() == [
        f"would be deleted  NATSDISC_HISTORY_{prefix}_v1_instances",
        f"would be deleted  NATSDISC_HISTORY_{prefix}_v1_mdc",
    ]
    assert (await shell.run("history", "disable", "--yes", *registry)).code == 0
    assert await discovery.list(endpoints()) == [before]


async def test_a_memory_store_has_no_history() -> None:
    async with Discovery(MemoryStore()) as discovery:
        with pytest.raises(natsdisc.UnsupportedServerError, match="only registries on a NATS server"):
            await discovery.history(endpoints())
        with pytest.raises(natsdisc.InvalidValueError, match="time zone"):
            await discovery.history(endpoints(), since=datetime(2026, 1, 1))


# export prometheus


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return json.load(answer)


async def test_export_prometheus(
    shell: Shell, registry: list[str], discovery: Discovery, tmp_path: Path
) -> None:
    path = tmp_path / "targets.json"
    await discovery.register(spec(zone="a"))
    await discovery.register(EndpointSpec("shop", "cart", "bus", transport=Transport.nats("a.b")))
    arguments = ["export", "prometheus", "shop", "--serve", "127.0.0.1:0", "--file", str(path)]
    process = await shell.start(*arguments, *registry)
    url = await line_of(process.stdout)
    [group] = await asyncio.to_thread(fetched, url)
    assert group == {
        "targets": ["10.0.0.7:80"],
        "labels": {
            "__meta_natsdisc_namespace": "shop",
            "__meta_natsdisc_component": "cart",
            "__meta_natsdisc_endpoint": "checkout",
            "__meta_natsdisc_instance_id": "1f",
            "__meta_natsdisc_id": "shop/cart/checkout/1f",
            "__meta_natsdisc_status": "serving",
            "__meta_natsdisc_transport": "tcp",
            "__meta_natsdisc_metadata_zone": "a",
        },
    }
    assert json.loads(path.read_text()) == [group]
    await discovery.register(spec("pay", metrics="https://h:9100/m"))

    async def both() -> bool:
        return len(await asyncio.to_thread(fetched, url)) == len(json.loads(path.read_text())) == 2

    await eventually(both, PATIENCE)
    once = json.loads((await shell.run("export", "prometheus", "--once", *registry)).out)
    assert once == await asyncio.to_thread(fetched, url)
    assert once[1]["targets"] == ["h:9100"]
    labels = once[1]["labels"]
    assert (labels["__scheme__"], labels["__metrics_path__"]) == ("https", "/m")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await asyncio.to_thread(fetched, f"{url}x")
    process.send_signal(signal.SIGTERM)
    assert (await ended(process)).code == 0
    assert [name for name in os.listdir(tmp_path) if "targets" in name] == ["targets.json"]


# watch --exec


async def test_watch_exec(shell: Shell, registry: list[str], discovery: Discovery, tmp_path: Path) -> None:
    log, fail = tmp_path / "log", tmp_path / "fail"
    # Two at once would show as two beginnings without an end.
    script = f"echo begin >> {log}; cat >> {log}; echo end >> {log}; ! test -e {fail}"
    process = await shell.start("watch", "shop", "--exec", script, "--settle", "50ms", *registry)

    def runs() -> list[list[str]]:
        """The places that each run was told."""
        text = log.read_text() if log.exists() else ""
        parts = text.split("begin\n")[1:]
        return [
            [one["id"] for one in json.loads(part.removesuffix("end\n"))]
            for part in parts
            if part.endswith("end\n")
        ]

    await eventually(lambda: runs() == [[]], PATIENCE)
    fail.touch()
    await discovery.register(spec())
    await eventually(lambda: runs()[-1:] == [["shop/cart/checkout/1f"]], PATIENCE)
    assert "ended with exit code 1; it runs again" in await line_with(process.stderr, "warning")
    fail.unlink()
    before = len(runs())
    many = [await discovery.register(spec(f"e{number}")) for number in range(20)]
    await eventually(lambda: len(runs()[-1]) == 21, PATIENCE)
    assert len(runs()) - before < len(many)
    process.send_signal(signal.SIGINT)
    assert (await ended(process)).code == 0
    assert log.read_text().count("begin") == log.read_text().count("end\n")
