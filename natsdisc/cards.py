"""The rules that Dynamo 1.6 has for model cards, for `models="dynamo"`.

Rules
1. A card is an object with a text `display_name`. The field `lora`, or a suffix, makes it an adapter.
2. On one endpoint, all base cards have one display name.
3. An adapter lies beside cards of the same base: the same `source_path`, or display name without one.
4. Only `runtime_config.taints` of a base card changes, and only its owner changes it.
5. Taints that begin with `dynamo.topology/` are those of `runtime_config.topology_domains`, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .errors import ConflictError, InvalidValueError
from .model import Instance, InstanceId, ModelCardInstanceId, ModelInstance

__all__ = ["adapters_of", "check_beside", "check_change", "differs_in_taints", "name_of"]

_TOPOLOGY = "dynamo.topology/"


class _Name(NamedTuple):
    display: str
    base: str
    is_adapter: bool


def name_of(card: ModelInstance) -> _Name:
    """Return what a card is called; raises InvalidValueError for one without a display name."""
    value = card.card
    display = value.get("display_name") if isinstance(value, Mapping) else None
    if not isinstance(display, str):
        raise InvalidValueError(
            f'the card of {card.id} has no text "display_name", which models="dynamo" needs; add one'
        )
    path = value.get("source_path")
    is_adapter = card.model_suffix is not None or value.get("lora") is not None
    return _Name(display, path if isinstance(path, str) else display, is_adapter)


def check_beside(card: ModelInstance, others: Iterable[ModelInstance]) -> None:
    """Raise ConflictError if `card` may not lie on an endpoint with `others`, and InvalidValueError.

    Example: `check_beside(mine, await discovery.list(models("shop", "llm", "generate")))`
    """
    mine = name_of(card)
    for other in others:
        name = name_of(other)
        by_base = mine.is_adapter or name.is_adapter
        if not (mine.base == name.base if by_base else mine.display == name.display):
            raise ConflictError(
                f"cannot register the model {mine.display!r} as {card.id}: {other.id} is the model "
                f"{name.display!r}, and an endpoint has one; use another endpoint, or unregister that"
            )


def check_change(before: Instance, after: Instance) -> None:
    """Raise InvalidValueError if a card may not change from `before` to `after`."""
    if not isinstance(before, ModelInstance) or not isinstance(after, ModelInstance) or before == after:
        return
    if before.model_suffix is not None:
        raise InvalidValueError(f"cannot change {before.id}: it is the card of an adapter, which is fixed")
    if not differs_in_taints(before, after):
        raise InvalidValueError(
            f'cannot change {before.id}: with models="dynamo" only runtime_config.taints of a card changes; '
            "unregister the card, and register the new one"
        )
    config = after.card["runtime_config"]
    domains = config.get("topology_domains")
    pairs = domains.items() if isinstance(domains, Mapping) else ()
    wanted = {f"{_TOPOLOGY}{domain.strip()}={str(value).strip()}" for domain, value in pairs}
    if {taint for taint in config.get("taints", ()) if taint.startswith(_TOPOLOGY)} != wanted:
        raise InvalidValueError(
            f"cannot change {before.id}: its taints with {_TOPOLOGY} must be those of topology_domains: "
            f"{', '.join(sorted(wanted)) or 'none'}"
        )


def differs_in_taints(before: Instance, after: Instance) -> bool:
    """Return whether two cards are the same but for their taints."""
    if not isinstance(before, ModelInstance) or not isinstance(after, ModelInstance):
        return False
    first, second = _without_taints(before.card), _without_taints(after.card)
    same = (before.id, before.extra) == (after.id, after.extra)
    return same and first is not None and first == second


def _without_taints(card: Any) -> dict[str, Any] | None:
    """Return a card without its taints; None for a card where Dynamo finds none to change."""
    config = card.get("runtime_config") if isinstance(card, Mapping) else None
    if not isinstance(config, Mapping):
        return None
    taints = config.get("taints", [])
    if not isinstance(taints, (list, tuple)) or not all(isinstance(taint, str) for taint in taints):
        return None
    rest = {name: value for name, value in config.items() if name != "taints"}
    return {**card, "runtime_config": rest}


def adapters_of(base: InstanceId, ids: Iterable[InstanceId]) -> list[InstanceId]:
    """Return those of `ids` that are adapters of the base card `base`; none for any other `base`."""
    if not isinstance(base, ModelCardInstanceId) or base.model_suffix is not None:
        return []
    place = (base.namespace, base.component, base.endpoint, base.instance_id)
    return [
        id
        for id in dict.fromkeys(ids)
        if isinstance(id, ModelCardInstanceId)
        and id.model_suffix is not None
        and (id.namespace, id.component, id.endpoint, id.instance_id) == place
    ]
