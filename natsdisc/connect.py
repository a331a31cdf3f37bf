"""A Discovery on a NATS connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from .discovery import Discovery
from .options import check_options, checked_keys, checked_models
from .registration import Registration
from .signing import Secret, Signer, Trust
from .store.jetstream import JetStreamStore

__all__ = ["Connecting", "connect"]


class Connecting:
    """The return value of `connect`: await it, or enter it with `async with`."""

    def __init__(self, open_discovery: Callable[[], Coroutine[Any, Any, Discovery]]) -> None:
        self._open = open_discovery
        self._discovery: Discovery | None = None

    def __await__(self) -> Generator[Any, None, Discovery]:
        return self._open().__await__()

    async def __aenter__(self) -> Discovery:
        self._discovery = await self._open()
        return self._discovery

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._discovery is not None
        await self._discovery.close()


def connect(
    servers: str | Sequence[str] | None = None,
    *,
    wait: float = 0.0,
    lease_ttl: float | None = 10.0,
    instance_id: int | None = None,
    expiry_grace: float = 1.0,
    replicas: int | None = None,
    storage: Literal["file", "memory"] | None = None,
    bucket_prefix: str = "",
    tombstone_ttl: float = 300.0,
    domain: str | None = None,
    api_prefix: str | None = None,
    on_lost: Callable[[Registration], object] | None = None,
    on_state: Callable[[Registration], object] | None = None,
    signer: Signer | Secret | None = None,
    trusted: Trust | Mapping[str, Iterable[str]] | None = None,
    models: Literal["dynamo"] | None = None,
    **nats_options: Any,
) -> Connecting:
    """Return a Discovery on a NATS connection of its own; `nats_options` go to nats-py.

    `servers` is a URL, several separated by commas, or a list; without one NATS_URL counts, else
    nats://127.0.0.1:4222. A tls:// URL or `tls` means TLS: nothing is sent to a server that offers none.
    `wait` is how many seconds to try for a first server, math.inf for ever; with 0 each is tried once.
    The connection reconnects for ever and reads credentials again each time; only `close` ends it.

    `replicas` and `storage` are for buckets that do not exist yet, `bucket_prefix` keeps several registries
    apart, the mark of a removal stays for `tombstone_ttl` seconds. `domain` names the JetStream domain of the
    registry, or `api_prefix` the subject under which this account imports another one's JetStream: see
    docs/connecting.md. For the rest see `Discovery`.
    Awaiting raises StoreUnavailableError (without TLS where it was asked for InsecureConnectionError),
    PermissionDeniedError, InvalidValueError, InvalidNameError.

    >>> async with connect("nats://127.0.0.1:4222", wait=30) as discovery:  # doctest: +SKIP
    ...     await discovery.list(endpoints("shop"))
    """

    async def open_discovery() -> Discovery:
        check_options(instance_id, lease_ttl, expiry_grace)
        checked_models(models)
        own_key, trust = checked_keys(signer, trusted)
        store = await JetStreamStore.connect(
            servers,
            nats_options,
            wait=wait,
            replicas=replicas,
            storage=storage,
            bucket_prefix=bucket_prefix,
            tombstone_ttl=tombstone_ttl,
            domain=domain,
            api_prefix=api_prefix,
        )
        return Discovery(
            store,
            instance_id=instance_id,
            lease_ttl=lease_ttl,
            expiry_grace=expiry_grace,
            on_lost=on_lost,
            on_state=on_state,
            signer=own_key,
            trusted=trust,
            models=models,
        )

    return Connecting(open_discovery)
