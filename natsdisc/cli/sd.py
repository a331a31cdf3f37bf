"""Instances as targets of Prometheus: the JSON of its http_sd and file_sd."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from natsdisc.model import EndpointInstance, Instance

from .path import hex_id, path_of
from .render import status_of

__all__ = ["METRICS", "targets", "targets_json"]

# The key of the metadata that says where metrics are, if not at the address of an http or tcp transport.
METRICS = "metrics"
_META = "__meta_natsdisc_"
_PORTS = {"http": 80, "https": 443}


def targets_json(instances: Iterable[Instance]) -> str:
    """Return the JSON document of `targets`."""
    return json.dumps(targets(instances), ensure_ascii=True, separators=(",", ":"), sort_keys=True)


def targets(instances: Iterable[Instance]) -> list[dict[str, Any]]:
    """Return a group of one target for each endpoint with an address, and its labels.

    An instance is scraped while it is draining, unhealthy or disabled too: the label `status` says so.
    """
    groups = []
    for instance in instances:
        if isinstance(instance, EndpointInstance) and (where := _address(instance)) is not None:
            target, own = where
            groups.append({"targets": [target], "labels": {**_labels(instance), **own}})
    return groups


def _address(instance: EndpointInstance) -> tuple[str, dict[str, str]] | None:
    """Return host and port, and the labels for scheme and path; None where there is no such address."""
    address: Any = instance.metadata.get(METRICS)
    if address is None and instance.transport.kind in ("http", "tcp"):
        address = instance.transport.address
    if not isinstance(address, str):
        return None
    with_scheme = "://" in address
    try:
        parts = urlsplit(address if with_scheme else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or (with_scheme and parts.scheme not in _PORTS):
        return None
    port = port or _PORTS.get(parts.scheme or "http")
    labels = {}
    if parts.scheme == "https":
        labels["__scheme__"] = "https"
    # The path of a transport is the service's; that of `metrics` is the page to scrape.
    if METRICS in instance.metadata and parts.path not in ("", "/"):
        labels["__metrics_path__"] = parts.path
    return f"{f'[{host}]' if ':' in host else host}:{port}", labels


def _labels(instance: EndpointInstance) -> dict[str, str]:
    labels = {
        "namespace": instance.namespace,
        "component": instance.component,
        "endpoint": instance.endpoint,
        "instance_id": hex_id(instance.instance_id),
        "id": path_of(instance.id),
        "status": status_of(instance),
        "transport": instance.transport.kind,
    }
    for key, value in instance.metadata.items():
        if isinstance(value, (str, int, float)):
            text = value if isinstance(value, str) else json.dumps(value)
            labels[f"metadata_{re.sub('[^a-zA-Z0-9_]', '_', key)}"] = text
    return {f"{_META}{name}": text for name, text in labels.items()}
