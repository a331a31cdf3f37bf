"""The design page names functions and files that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "natsdisc"
PAGE = (ROOT / "docs" / "design.md").read_text()
# `Class.method`, in the text and in the drawings.
METHODS = sorted(set(re.findall(r"\b([A-Z][A-Za-z]+)\.(_?[a-z][a-z_]*)\b", PAGE)))
MODULES = sorted(set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", PAGE)))
NAMES = sorted(set(re.findall(r"\(`([A-Za-z_]+)`(?:, `([A-Za-z_]+)`)?\)", PAGE)))


def defined() -> tuple[dict[str, set[str]], dict[str, list[str]], set[str]]:
    """Return the methods of each class, the bases of each class, and all names of functions and classes."""
    methods: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names.add(node.name)
            elif isinstance(node, ast.ClassDef):
                names.add(node.name)
                found = methods.setdefault(node.name, set())
                found |= {
                    one.name for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))
                }
                # Of two classes of one name, such as the synchronous Discovery, either may have it.
                bases.setdefault(node.name, []).extend(
                    ast.unparse(base).partition("[")[0] for base in node.bases
                )
    return methods, bases, names


METHODS_OF, BASES_OF, ALL_NAMES = defined()


def has(name: str, method: str) -> bool:
    return method in METHODS_OF.get(name, ()) or any(
        has(base.rpartition(".")[2], method)
        for base in BASES_OF.get(name, ())
        if base.rpartition(".")[2] != name
    )


def test_the_page_names_enough() -> None:
    assert len(METHODS) >= 20
    assert len(MODULES) >= 10


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_a_method_of_the_page_exists(name: str, method: str) -> None:
    assert has(name, method), f"{name}.{method}"


@pytest.mark.parametrize("module", MODULES)
def test_a_file_of_the_page_exists(module: str) -> None:
    assert (PACKAGE / module).exists()


def test_functions_of_the_page_exist() -> None:
    wanted = {name for pair in NAMES for name in pair if name and not name.islower()} | {
        name for pair in NAMES for name in pair if "_" in name
    }
    assert wanted - ALL_NAMES == set()
