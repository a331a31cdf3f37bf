"""`models="dynamo"`: Dynamo's rules for the names, the changes and the removal of model cards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from natsdisc import ModelSpec, models
from natsdisc.errors import ConflictError, InvalidValueError

from .conftest import Registry


def spec(name: str, suffix: str | None = None, **card: Any) -> ModelSpec:
    return ModelSpec("ns", "llm", "generate", card={"display_name": name, **card}, model_suffix=suffix)


async def test_an_endpoint_has_one_display_name_and_adapters_of_its_base(registry: Registry) -> None:
    one, two, general = (
        await registry.join(models="dynamo"),
        await registry.join(models="dynamo"),
        await registry.join(),
    )
    base = await one.register(spec("a", source_path="org/a"))
    also = await two.register(spec("a", source_path="org/a"))
    with pytest.raises(ConflictError, match=r"'b'.*is the model 'a'"):
        await two.register(spec("b"))
    adapter = await two.register(spec("tuned", "tuned", source_path="org/a"))
    with pytest.raises(ConflictError, match="'other'"):
        await two.register(spec("other", "other", source_path="org/b"))
    with pytest.raises(ConflictError, match="'lora'"):
        await two.register(spec("lora", "l", lora={"name": "x"}, source_path="org/b"))
    assert set(map(str, [one.id for one in await one.list(models())])) == {
        str(base.id),
        str(also.id),
        str(adapter.id),
    }
    assert len(two.registrations) == 2
    # Another endpoint may have another model, and without the option there are no rules.
    await two.register(ModelSpec("ns", "llm", "embed", card={"display_name": "b"}))
    await general.register(spec("free"))
    with pytest.raises(InvalidValueError, match="display_name"):
        await two.register(ModelSpec("ns", "llm", "x", card={}))
    with pytest.raises(InvalidValueError, match="use register"):
        two.announce(spec("a"))


async def test_of_two_names_at_once_at_most_one_stays(registry: Registry) -> None:
    clients = [await registry.join(models="dynamo") for _ in range(2)]
    made = await asyncio.gather(
        *(client.register(spec(name)) for client, name in zip(clients, "ab", strict=True)),
        return_exceptions=True,
    )
    stayed = [one for one in made if not isinstance(one, BaseException)]
    assert len(stayed) <= 1
    assert all(isinstance(one, ConflictError) for one in made if isinstance(one, BaseException))
    assert await clients[0].list(models()) == stayed


async def test_only_the_owner_changes_a_card_and_only_its_taints(registry: Registry) -> None:
    owner, other = await registry.join(models="dynamo"), await registry.join(models="dynamo")
    config = {"topology_domains": {"zone": " west "}, "taints": ["dynamo.topology/zone=west"]}
    mine = await owner.register(spec("a", runtime_config=config))

    def card(*taints: str, **changed: Any) -> dict[str, Any]:
        return {"display_name": "a", "runtime_config": {**config, "taints": [*taints]}, **changed}

    changed = await owner.update(mine, card=card("dynamo.topology/zone=west", "fast"))
    assert await other.list(models()) == [changed]
    # The same spec again keeps the taints that were set since.
    assert await owner.register(spec("a", runtime_config=config)) == changed
    for refused in (card("fast"), card("dynamo.topology/zone=west", display_name="b"), {"display_name": "a"}):
        with pytest.raises(InvalidValueError, match="cannot change"):
            await owner.update(changed, card=refused)
    with pytest.raises(ConflictError, match="only its owner"):
        await other.update(changed, card=card("dynamo.topology/zone=west"))
    adapter = await owner.register(spec("x", "x", source_path="a", runtime_config={"taints": []}))
    with pytest.raises(InvalidValueError, match="adapter"):
        await owner.update(adapter, card={**adapter.card, "runtime_config": {"taints": ["t"]}})
    assert changed in await other.list(models())


async def test_adapters_go_with_their_base_card(registry: Registry) -> None:
    one, two = await registry.join(models="dynamo"), await registry.join(models="dynamo")
    base = await one.register(spec("a"))
    await one.register(spec("x", "x", source_path="a"))
    theirs = await two.register(spec("y", "y", source_path="a"))
    await one.unregister(base)
    assert await two.list(models()) == [theirs]
    assert not one.registrations


async def test_rules_of_another_name_are_refused(registry: Registry) -> None:
    with pytest.raises(InvalidValueError, match='None or "dynamo"'):
        await registry.join(models="other")
