"""States of a connection that chaos draws from: TLS, credentials that are refused, bytes that nobody takes.

Watchers and writers are users of their own, whom the server can lock out. The seed decides which of the two
speaks TLS. All others connect without a name, as somebody who is never locked out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from natsdisc.server import NatsServer
from tests.faults.kit import Fleet
from tests.faults.proxy import Proxy
from tests.faults.states import Certificates, leave_unsent, reload

__all__ = ["States"]

USERS = ("watchers", "writers")
# Where OpenSSL looks for authorities, and so each `tls://` URL without a context, in all processes.
_AUTHORITIES = "SSL_CERT_FILE"
_HANDSHAKE_S = 10  # nats-server's own 2 s are short on a machine with much to do
_FILLING_S = 5.0  # seconds until bytes have to stay in this process
_SETTLED_S = 60.0  # seconds until a server has taken its configuration

Kind = Callable[[random.Random], Awaitable[str]]


class States:
    """What servers must be configured with, and the faults that this makes possible.

    Use it as `with States(seed) as states:`, and call `prepare` before servers start and `kinds` after.

    >>> States(1).user_of("writers", "another")
    '{ user: writers, password: another }'
    """

    def __init__(self, seed: int) -> None:
        self.encrypted = random.Random(f"{seed}/tls").choice(USERS)
        self._certificates = Certificates()
        self._before = os.environ.get(_AUTHORITIES)
        self._servers: Mapping[NatsServer, str] = {}

    def __enter__(self) -> Self:
        self._certificates.__enter__()
        os.environ[_AUTHORITIES] = str(self._certificates.authority)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.environ.pop(_AUTHORITIES)
        if self._before is not None:
            os.environ[_AUTHORITIES] = self._before
        self._certificates.__exit__(kind, error, trace)

    def prepare(self, servers: Sequence[NatsServer]) -> None:
        """Give servers that have not started yet the users and the certificate."""
        self._servers = {server: server._config or "" for server in servers}
        for server in servers:
            server._config = self._config(server)

    def url(self, user: str, proxy: Proxy) -> str:
        """Return what the watchers or the writers connect to."""
        scheme = "tls" if user == self.encrypted else "nats"
        return f"{scheme}://{user}:good@127.0.0.1:{proxy.port}"

    @staticmethod
    def user_of(name: str, password: str = "good") -> str:
        """Return a user as the configuration of a server has it."""
        return f"{{ user: {name}, password: {password} }}"

    def kinds(self, fleet: Fleet, links: Mapping[str, Proxy]) -> tuple[Kind, ...]:
        """Return the faults. Each is over when it returns, and says what it was."""

        async def credentials_are_refused(chance: random.Random) -> str:
            who, lasts = chance.choice(USERS), chance.uniform(0.5, 12)
            await self._reload(refused=who)
            try:
                await asyncio.sleep(lasts)
            finally:
                await self._reload()
            return f"credentials of the {who} refused for {lasts:.1f} s"

        async def bytes_stay_unsent(chance: random.Random) -> str:
            who, lasts, broken = chance.choice(USERS), chance.uniform(0.5, 10), chance.random() < 0.5
            client = _client_of(fleet, who, chance)
            left = await _fill(client, links[who])
            await asyncio.sleep(lasts)
            if broken:
                links[who].cut()
            await links[who].heal()
            end = "were lost with the link" if broken else "went on"
            return f"{left} bytes of one of the {who} unsent for {lasts:.1f} s, and {end}"

        async def tls_is_half_open(chance: random.Random) -> str:
            lasts, link = chance.uniform(1, 12), links[self.encrypted]
            # Connections that are there hear nothing for ever; new ones wait for their handshake.
            link.half_open(new=False)
            await asyncio.sleep(lasts)
            await link.heal()
            return f"TLS of the {self.encrypted} half open for ever, handshakes for {lasts:.1f} s"

        async def server_hangs_on_unsent_bytes(chance: random.Random) -> str:
            who, hangs = chance.choice(USERS), chance.uniform(0.5, 12)
            client, node = _client_of(fleet, who, chance), chance.choice(list(self._servers))
            node.suspend()
            try:
                left = await _fill(client, links[who])
                await links[who].heal()
                await asyncio.sleep(hangs)
            finally:
                node.resume()
            return f"server hung for {hangs:.1f} s, with {left} unsent bytes of one of the {who}"

        return (
            credentials_are_refused,
            bytes_stay_unsent,
            tls_is_half_open,
            server_hangs_on_unsent_bytes,
        )

    def _config(self, server: NatsServer, refused: str | None = None) -> str:
        users = [self.user_of(user, "another" if user == refused else "good") for user in USERS]
        users.append(self.user_of("others"))
        # The last block counts: one of a cluster's own is replaced, with the system account that it has.
        return (
            f"{self._servers[server]}\n"
            f"accounts {{\n  $SYS {{ users: [ {{ user: sys, password: sys }} ] }}\n"
            f"  A {{ jetstream: enabled, users: [ {', '.join(users)} ] }}\n}}\n"
            f"no_auth_user: others\nallow_non_tls: true\n"
            f"tls {{ {self._certificates.files}, timeout: {_HANDSHAKE_S} }}\n"
        )

    async def _reload(self, refused: str | None = None) -> None:
        async with asyncio.timeout(_SETTLED_S):
            await asyncio.gather(
                *(reload(server, self._config(server, refused)) for server in self._servers if server.running)
            )


def _client_of(fleet: Fleet, who: str, chance: random.Random) -> Any:
    """Return the connection of a watcher or of a writer."""
    writing = [writer.discovery for writer in fleet.writers]
    discovery = chance.choice(writing if who == "writers" else fleet.watching)
    return discovery._store._nc  # type: ignore[attr-defined]


async def _fill(client: Any, link: Proxy) -> int:
    """Stall a link and leave bytes of a connection in this process; return how many.

    A connection that breaks meanwhile has none.
    """
    with contextlib.suppress(AttributeError, TimeoutError):
        async with asyncio.timeout(_FILLING_S):
            await leave_unsent(client, link)
    with contextlib.suppress(AttributeError):
        return int(client._transport._io_writer.transport.get_write_buffer_size())
    return 0
