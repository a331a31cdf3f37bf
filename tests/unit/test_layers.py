"""Imports go down only, and what is imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import natsdisc

PACKAGE = Path(natsdisc.__file__).parent

LEVELS = {
    "natsdisc.errors": 0,
    "natsdisc.addresses": 0,
    "natsdisc.clock": 0,
    "natsdisc.frozen": 0,
    "natsdisc.model": 0,
    "natsdisc.lease": 0,
    "natsdisc.stats": 0,
    "natsdisc.log": 0,
    "natsdisc.notices": 1,
    "natsdisc.callbacks": 1,
    "natsdisc.loop": 1,
    "natsdisc.tasks": 1,
    "natsdisc.safe": 0,
    "natsdisc.keys": 1,
    "natsdisc.wire": 1,
    "natsdisc.entry": 1,
    "natsdisc.nkey": 1,
    "natsdisc.signing": 1,
    "natsdisc.replay": 1,
    "natsdisc.cards": 1,
    "natsdisc.changes": 2,
    "natsdisc.picture": 2,
    "natsdisc.cache": 2,
    "natsdisc.store.records": 0,
    "natsdisc.store": 1,
    "natsdisc.store.snapshot": 2,
    "natsdisc.store.slices": 1,
    "natsdisc.store.signed": 2,
    "natsdisc.store.checked": 2,
    "natsdisc.store.memory": 2,
    "natsdisc.store.jetstream": 2,
    "natsdisc.acl": 2,
    "natsdisc.measure": 2,
    "natsdisc.balance": 2,
    "natsdisc.ejection": 2,
    "natsdisc.losses": 2,
    "natsdisc.where": 2,
    "natsdisc.services": 2,
    "natsdisc.calls": 3,
    "natsdisc.choice": 2,
    "natsdisc.informer": 3,
    "natsdisc.watch": 3,
    "natsdisc.events": 1,
    "natsdisc.listeners": 3,
    "natsdisc.selection": 3,
    "natsdisc.registration": 2,
    "natsdisc.reports": 2,
    "natsdisc.updates": 2,
    "natsdisc.health": 2,
    "natsdisc.sweeping": 2,
    "natsdisc.takeover": 2,
    "natsdisc.renewals": 3,
    "natsdisc.upkeep": 3,
    "natsdisc.registrar": 3,
    "natsdisc.history": 2,
    "natsdisc.view": 3,
    "natsdisc.options": 2,
    "natsdisc.readiness": 3,
    "natsdisc.registering": 4,
    "natsdisc.closing": 4,
    "natsdisc.discovery": 4,
    "natsdisc.connect": 4,
    "natsdisc": 5,
}
APART = (
    "natsdisc.server",
    "natsdisc.testing",
    "natsdisc.cli",
    "natsdisc.ui",
    "natsdisc.integrations",
    "natsdisc.sync",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(source: str, name: str, *, is_package: bool) -> set[str]:
    """What a module names in its import statements, wherever they stand in it, in absolute terms."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")
            if node.level:
                above = above[: len(above) - node.level + is_package]
            base = ".".join(([] if not node.level else above) + ([node.module] if node.module else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
    return found


IMPORTS = {
    name: imports_of(path.read_text("utf-8"), name, is_package=path.name == "__init__.py")
    for name, path in MODULES.items()
}
INSIDE = {name: {module for module in found if module in MODULES} for name, found in IMPORTS.items()}


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def is_apart(name: str) -> bool:
    return any(is_below(name, package) for package in APART)


def level_of(name: str) -> int:
    package = next(
        (one for one in ("natsdisc.store.jetstream", "natsdisc.model") if is_below(name, one)), name
    )
    return LEVELS[package]


def outside(name: str) -> set[str]:
    return {module.partition(".")[0] for module in IMPORTS[name]}


def reachable(name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for module in INSIDE[waiting.pop()] - found:
            found.add(module)
            waiting.append(module)
    return found


LAYERED = [name for name in MODULES if not is_apart(name)]


def test_imports_are_found_in_every_form() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n  from . import keys\n  from ..model import X\n"
    assert imports_of(source, "natsdisc.store.memory", is_package=False) == {
        "a.b",
        "c",
        "natsdisc.store",
        "natsdisc.model",
    }
    assert imports_of("from . import keys, wire", "natsdisc.entry", is_package=False) == {
        "natsdisc.keys",
        "natsdisc.wire",
    }
    assert imports_of("from .memory import M", "natsdisc.store", is_package=True) == {"natsdisc.store.memory"}


def test_the_modules_were_found() -> None:
    assert {"natsdisc.model", "natsdisc.store.memory", "natsdisc.store.jetstream.reader"} <= set(LAYERED)
    assert INSIDE["natsdisc.entry"] >= {"natsdisc.keys", "natsdisc.wire", "natsdisc.model"}


@pytest.mark.parametrize("name", LAYERED)
def test_every_module_has_a_level(name: str) -> None:
    assert level_of(name) in range(6)


@pytest.mark.parametrize("name", LAYERED)
def test_imports_go_down_only(name: str) -> None:
    up = {module for module in INSIDE[name] if is_apart(module) or level_of(module) > level_of(name)}
    assert up == set()


def test_there_are_no_circles() -> None:
    assert set(TopologicalSorter(INSIDE).static_order()) >= set(LAYERED)


@pytest.mark.parametrize("module", ["cache", "picture", "changes", "lease", "model", "keys"])
def test_the_core_is_pure(module: str) -> None:
    impure = {"asyncio", "time", "random", "datetime", "nats", "logging"}
    assert outside(f"natsdisc.{module}").isdisjoint(impure)


def test_only_the_jetstream_store_knows_nats() -> None:
    knowing = {name for name in MODULES if "nats" in outside(name)}
    assert knowing
    assert all(is_below(name, "natsdisc.store.jetstream") for name in knowing)


def test_only_the_wire_knows_orjson() -> None:
    assert {name for name in MODULES if "orjson" in outside(name) and not is_apart(name)} == {
        "natsdisc.wire",
        "natsdisc.store.jetstream.api",  # the API's answers hold a hundred thousand subjects
    }


def test_what_is_below_the_facade_knows_no_third_party_but_these() -> None:
    known = sys.stdlib_module_names | {"natsdisc", "nats", "orjson", "typing_extensions"}
    unknown = {name: outside(name) - known for name in LAYERED if outside(name) - known}
    # An extra: imported where a key is used, and not before.
    assert unknown == {"natsdisc.nkey": {"nkeys", "nacl"}}


def test_reading_and_registering_do_not_know_each_other() -> None:
    reading = {name for name in ("natsdisc.informer", "natsdisc.watch", "natsdisc.view") if name in MODULES}
    assert reachable("natsdisc.registrar").isdisjoint({*reading, "natsdisc.cache"})
    for name in reading:
        assert reachable(name).isdisjoint({"natsdisc.registrar", "natsdisc.lease"})


def test_the_core_works_without_a_store() -> None:
    for name in ("natsdisc.informer", "natsdisc.watch", "natsdisc.registrar", "natsdisc.view"):
        if name in MODULES:
            stores = {module for module in reachable(name) if is_below(module, "natsdisc.store")}
            assert stores == {"natsdisc.store", "natsdisc.store.records"}


def test_importing_natsdisc_brings_only_its_dependencies() -> None:
    script = (
        "import sys\n"
        "def names(): return {name.partition('.')[0] for name in sys.modules}\n"
        "import nats\n"
        "before = names()\n"
        "import natsdisc\n"
        "assert not {name for name in sys.modules if name.startswith('natsdisc.server')}, 'the server'\n"
        "assert not {name for name in sys.modules if name.startswith('natsdisc.testing')}, 'testing'\n"
        "assert not {name for name in sys.modules if name.startswith('natsdisc.cli')}, 'the command line'\n"
        "assert not {name for name in sys.modules if name.startswith('natsdisc.sync')}, 'sync'\n"
        "assert not {name for name in sys.modules if name.startswith('natsdisc.integrations')}, 'others'\n"
        "print(*sorted(names() - before - sys.stdlib_module_names))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["natsdisc", "orjson"]
