"""The checks of `natsdisc doctor`, one after the other."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from natsdisc.acl import Role
from natsdisc.entry import BUCKETS
from natsdisc.errors import DiscoveryError, InvalidValueError, PermissionDeniedError, StoreUnavailableError
from natsdisc.model import EndpointInstanceId, Kind, endpoints
from natsdisc.store.jetstream.admin import Admin, StreamState

from .audit import audit
from .connection import Connection
from .doctor_target import Target
from .doctor_trip import round_trip
from .doctor_words import PROBE, article, concrete, offset_text, todo_making, todo_missing, todo_using
from .finding import BROKEN, NOTE, OK, SKIPPED, Finding
from .micro import micro
from .port import what_listens
from .render import counted, wrong_copy
from .void import bucket_names

__all__ = ["check"]

# nats-server 2.12 has message schedules (ADR-51); 2.11 everything else.
_FOR_LEASES, _FOR_ANYTHING = (2, 12), (2, 11)


async def check(target: Target) -> AsyncIterator[Finding]:
    """Yield each finding as it is made. Raises InvalidValueError, InvalidNameError."""
    connection = target.connection
    async with AsyncExitStack() as stack:
        try:
            admin = await stack.enter_async_context(
                await Admin.connect(
                    connection.servers,
                    dict(connection.nats_options),
                    bucket_prefix=connection.bucket_prefix,
                    **connection.jetstream,
                    **target.options,
                )
            )
        except PermissionDeniedError as error:
            yield Finding("connect", BROKEN, str(error), "check --user, --creds, --nkey or --token")
            return
        except StoreUnavailableError as error:
            for finding in await _unreachable(connection, error):
                yield finding
            return
        async for finding in _Examination(target, admin).findings():
            yield finding


async def _unreachable(connection: Connection, error: DiscoveryError) -> list[Finding]:
    servers = [connection.servers] if isinstance(connection.servers, str) else connection.servers
    findings = []
    for url in servers:
        try:
            text, todo = await what_listens(url)
        except ValueError as bad:
            raise InvalidValueError(f"not an address: {bad}") from bad
        # A reachable server refused us in its own words.
        findings.append(Finding("connect", BROKEN, f"{text} ({error})", todo))
    return findings


class _Examination:
    """All checks on a server that accepted the connection."""

    def __init__(self, target: Target, admin: Admin) -> None:
        self._target = target
        self._admin = admin
        self._allowed: dict[str, bool] = {}
        self._states: dict[Kind, StreamState | None] = {}
        self._usable = True

    async def findings(self) -> AsyncIterator[Finding]:
        yield await self._connect()
        yield self._version()
        for role in Role:
            for finding in await self._rights(role):
                yield finding
        if not self._allowed.get(f"{self._inbox()}.{PROBE}", True):
            return  # no answer would reach us
        jetstream = await self._jetstream()
        yield jetstream
        if jetstream.state == BROKEN:
            return
        for kind in Kind:
            yield await self._bucket(kind)
            copies = await self._copies(kind)
            if copies is not None:
                yield copies
        yield self._clock()
        yield await self._listing()
        services = await micro(
            self._target.connection, self._admin, self._target.namespace, self._target.component
        )
        if services is not None:
            yield services
        if self._target.role is not Role.READER:
            yield await self._round_trip()
        if self._target.audit:
            async for finding in audit(self._admin):
                yield finding

    def _inbox(self) -> str:
        return str(self._target.connection.nats_options.get("inbox_prefix", "_INBOX"))

    async def _connect(self) -> Finding:
        server = self._admin.server
        trip = await self._admin.round_trip()
        name = f" ({server.name} of cluster {server.cluster})" if server.cluster else ""
        return Finding("connect", OK, f"{server.url}{name}, a round trip takes {trip * 1000:.1f} ms")

    def _version(self) -> Finding:
        version = self._admin.server.version
        numbers = tuple(int(part) for part in version.split(".")[:2])
        text = f"nats-server {version}"
        if numbers < _FOR_ANYTHING:
            return Finding("version", BROKEN, f"{text} is too old", "upgrade to 2.12 or newer")
        if numbers < _FOR_LEASES:
            return Finding(
                "version",
                BROKEN,
                f"{text} is too old for leases",
                "upgrade to 2.12 or newer, or use lease_ttl=None (--ttl none): what crashes then stays",
            )
        return Finding("version", OK, text)

    async def _rights(self, role: Role) -> list[Finding]:
        needed = self._target.permissions(role)
        missing = [f"publish {subject}" for subject in needed.publish if not await self._may(subject, True)]
        missing += [
            f"subscribe {subject}" for subject in needed.subscribe if not await self._may(subject, False)
        ]
        order = list(Role)
        if not missing:
            return [Finding(f"role {role}", OK, f"this user may be {article(role)}")]
        if order.index(role) > order.index(self._target.role):
            text = f"this user is not {article(role)}: {counted(len(missing), 'permission')} missing"
            return [Finding(f"role {role}", NOTE, text, "fine, unless it should be")]
        place = self._target.place if role is not Role.OPERATOR else ""
        todo = f"grant what `natsdisc acl --role {role}{place}{self._target.identity}` prints"
        return [Finding(f"role {role}", BROKEN, f"this user may not {what}", todo) for what in missing]

    async def _may(self, pattern: str, publish: bool) -> bool:
        subject = concrete(pattern)
        if subject not in self._allowed:
            ask = self._admin.may_publish if publish else self._admin.may_subscribe
            self._allowed[subject] = await ask(subject)
        return self._allowed[subject]

    def _may_look(self) -> bool:
        """Whether the user may see the streams: a reader of one namespace may not."""
        return all(allowed for subject, allowed in self._allowed.items() if ".STREAM.INFO." in subject)

    async def _jetstream(self) -> Finding:
        server = self._admin.server
        if not self._may_look():
            return Finding("jetstream", SKIPPED, "this user may not look at streams")
        try:
            for kind in Kind:
                self._states[kind] = await self._admin.state(BUCKETS[kind])
        except StoreUnavailableError as error:
            if server.cluster:
                todo = "start the servers that are missing: more than half of them must run"
                text = f"JetStream has no answer; cluster {server.cluster} may have no quorum ({error})"
                return Finding("jetstream", BROKEN, text, todo)
            todo = "start nats-server with -js, or enable JetStream for the account"
            return Finding("jetstream", BROKEN, f"JetStream is not enabled here ({error})", todo)
        except DiscoveryError as error:
            return Finding("jetstream", BROKEN, str(error), "see the server's log")
        return Finding("jetstream", OK, "it answers")

    async def _bucket(self, kind: Kind) -> Finding:
        name = f"bucket {bucket_names(self._target.connection)[kind]}"
        if not self._may_look():
            return Finding(name, SKIPPED, "this user may not look at it")
        state = self._states[kind]
        if state is None and self._target.create:
            try:
                await self._admin.make(BUCKETS[kind])
                state = self._states[kind] = await self._admin.state(BUCKETS[kind])
            except DiscoveryError as error:
                self._usable = False
                return Finding(name, BROKEN, f"could not be made: {error}", todo_making(error))
        if state is None:
            self._usable = self._usable and kind is not Kind.ENDPOINT
            return Finding(
                name,
                NOTE,
                "is not there yet",
                todo_missing(self._target.role),
            )
        finding = self._judged(name, state)
        self._usable = self._usable and (finding.state != BROKEN or kind is not Kind.ENDPOINT)
        return finding

    def _judged(self, name: str, state: StreamState) -> Finding:
        kept = f"R{state.replicas} on {state.storage}"
        if state.fault is not None:
            todo = "use another --bucket-prefix, or remove what is there if nobody needs it"
            return Finding(name, BROKEN, f"is not ours: {state.fault}", todo)
        if state.clustered and state.leader is None:
            away = ", ".join(state.peers_behind) or "its peers"
            majority = state.replicas // 2 + 1
            todo = f"start the missing servers: {majority} of its {state.replicas} replicas must run"
            return Finding(name, BROKEN, f"{kept} has no quorum, and so no leader; away: {away}", todo)
        if state.peers_behind:
            away = ", ".join(state.peers_behind)
            return Finding(name, NOTE, f"{kept} works, but is degraded; away: {away}", "start what is away")
        if not state.leases:
            todo = "the first lease extends it, if its user may (STREAM.UPDATE)"
            return Finding(name, NOTE, f"{kept}, a plain KV bucket without leases", todo)
        leader = f", led by {state.leader}" if state.clustered else ""
        return Finding(
            name, OK, f"{kept}{leader}, {counted(state.messages, 'message')}, {counted(state.size, 'byte')}"
        )

    async def _copies(self, kind: Kind) -> Finding | None:
        """Compare the copies of a replicated bucket; None where there is nothing to compare."""
        state = self._states.get(kind)
        if state is None or state.replicas < 2 or state.leader is None or not self._may_look():
            return None
        name = f"copies {bucket_names(self._target.connection)[kind]}"
        try:
            differences = await self._admin.differences(BUCKETS[kind])
        except DiscoveryError as error:
            return Finding(name, NOTE, f"could not be compared: {error}", "run doctor again")
        if not differences:
            return Finding(name, OK, f"all {state.replicas} hold the same")
        texts = [wrong_copy(state.bucket, difference) for difference in differences]
        todo = "any process that registers removes what is too much; run doctor again after a minute"
        return Finding(name, BROKEN, "; ".join(texts), todo)

    def _clock(self) -> Finding:
        state = next((state for state in self._states.values() if state is not None), None)
        if state is None:
            return Finding("clock", SKIPPED, "no bucket tells the server's time")
        offset = state.clock_offset
        if abs(offset) <= max(state.clock_error, 0.001):
            where = f"is the server's within {max(state.clock_error, 0.001) * 1000:.0f} ms"
        else:
            where = f"is {offset_text(abs(offset))} {'ahead of' if offset > 0 else 'behind'} the server's"
        return Finding("clock", OK, f"ours {where}; it does not matter, leases run on the server's")

    async def _listing(self) -> Finding:
        names = (self._target.namespace, self._target.component)
        started = time.monotonic()
        try:
            async with self._target.connection.open() as discovery:
                found = await discovery.list(endpoints(*names))
        except DiscoveryError as error:
            self._usable = False
            return Finding("list", BROKEN, str(error), todo_using(error, self._target))
        text = f"{counted(len(found), 'endpoint')} in {(time.monotonic() - started) * 1000:.0f} ms"
        return Finding("list", OK, text)

    async def _round_trip(self) -> Finding:
        if not self._usable:
            return Finding("round trip", SKIPPED, "there is no bucket to write to")
        if any(not allowed for subject, allowed in self._allowed.items() if self._is_needed(subject)):
            return Finding("round trip", SKIPPED, "this user may not write")
        nonce = f"{PROBE}-{secrets.token_hex(4)}"
        namespace, component = self._target.namespace or nonce, self._target.component or nonce
        try:
            text = await round_trip(self._admin, EndpointInstanceId(namespace, component, nonce, 0))
        except (DiscoveryError, TimeoutError) as error:
            return Finding(
                "round trip", BROKEN, str(error) or "took too long", todo_using(error, self._target)
            )
        return Finding("round trip", OK, text)

    def _is_needed(self, subject: str) -> bool:
        needed = self._target.permissions(Role.REGISTRAR)
        return any(subject == concrete(pattern) for pattern in needed.publish)
