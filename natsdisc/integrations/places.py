"""The rules that HTTP integrations share: host names as places, and what may be sent again."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidNameError, InvalidValueError
from ..model import EndpointInstance, EndpointQuery, endpoints

__all__ = ["IDEMPOTENT", "base_of", "query_of"]

# RFC 9110, 9.2.2: sending one of these twice has the effect of sending it once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


def query_of(host: str, hosts: Mapping[str, EndpointQuery]) -> EndpointQuery:
    """Return the query for the host of a URL: one of `hosts`, else `endpoint.component.namespace`.

    Raises InvalidNameError for a host that has other than three labels.
    """
    known = hosts.get(host)
    if known is not None:
        return known
    labels = host.split(".")
    if len(labels) != 3 or not all(labels):
        raise InvalidNameError(
            f"the host {host!r} is not endpoint.component.namespace; give such a URL, or name it in `hosts`"
        )
    endpoint, component, namespace = labels
    return endpoints(namespace, component, endpoint)


def base_of(instance: EndpointInstance, *, tls: bool) -> str:
    """Return the base URL of an instance, without a slash at its end.

    Raises InvalidValueError for an instance that is not reached over HTTP, and for one without TLS when the
    request asks for `tls`.
    """
    address = instance.transport.address
    scheme = address.partition("://")[0] if isinstance(address, str) else ""
    if scheme not in ("http", "https"):
        raise InvalidValueError(
            f"{instance.id} cannot be reached over HTTP: its transport is {instance.transport.kind} "
            f"{address!r}; register it with Transport.http('http://…')"
        )
    if tls and scheme != "https":
        raise InvalidValueError(
            f"{instance.id} offers no TLS at {address!r}, and the request is for https; register it with an "
            "https address, or send the request to http"
        )
    return str(address).rstrip("/")
