"""What `natsdisc doctor` looks at, one thing after the other."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import natsdisc
from natsdisc import keys
from natsdisc.acl import Permissions, Role, permissions
from natsdisc.entry import BUCKETS
from natsdisc.errors import (
    DiscoveryError,
    InvalidValueError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedServerError,
)
from natsdisc.model import Added, EndpointSpec, Kind, Query, Removed, Transport, endpoints
from natsdisc.store.jetstream.admin import Admin, StreamState

from .audit import audit
from .connection import Connection
from .finding import BROKEN, NOTE, OK, SKIPPED, Finding
from .micro import micro
from .port import what_listens
from .render import counted, wrong_copy

__all__ = ["Patient", "check"]

# nats-server 2.12 has message schedules (ADR-51); 2.11 everything else.
_FOR_LEASES, _FOR_ANYTHING = (2, 12), (2, 11)
_LEASE_TTL = 10.0
_PROBE = "natsdisc-doctor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is to be checked: a connection, and what its user should be able to do with it."""

    connection: Connection
    role: Role
    namespace: str | None
    component: str | None
    create: bool
    audit: bool
    options: dict[str, Any]  # for buckets that are made

    def permissions(self, role: Role) -> Permissions:
        """What `role` needs here; an operator is never confined."""
        confined = role is not Role.OPERATOR
        return permissions(
            role,
            namespace=self.namespace if confined else None,
            component=self.component if confined else None,
            bucket_prefix=self.connection.bucket_prefix,
            inbox_prefix=str(self.connection.nats_options.get("inbox_prefix", "_INBOX")),
            **self.connection.jetstream,
        )

    @property
    def place(self) -> str:
        """The options of `natsdisc acl` that say where this user works."""
        words = [("--namespace", self.namespace), ("--component", self.component)]
        return "".join(f" {option} {name}" for option, name in words if name is not None)

    @property
    def identity(self) -> str:
        """The options of `natsdisc acl` that say which registry and inbox this user has."""
        prefix = self.connection.bucket_prefix
        bucket = f" --bucket-prefix {prefix}" if prefix else ""
        where = "".join(
            f" --{name.replace('_', '-')} {value}" for name, value in self.connection.jetstream.items()
        )
        return f"{bucket}{where} --inbox-prefix {self.connection.nats_options.get('inbox_prefix', '_INBOX')}"


async def check(patient: Patient) -> AsyncIterator[Finding]:
    """Every finding as it is made. Raises InvalidValueError, InvalidNameError."""
    connection = patient.connection
    async with AsyncExitStack() as stack:
        try:
            admin = await stack.enter_async_context(
                await Admin.connect(
                    connection.servers,
                    dict(connection.nats_options),
                    bucket_prefix=connection.bucket_prefix,
                    **connection.jetstream,
                    **patient.options,
                )
            )
        except PermissionDeniedError as error:
            yield Finding("connect", BROKEN, str(error), "check --user, --creds, --nkey or --token")
            return
        except StoreUnavailableError as error:
            for finding in await _unreachable(connection, error):
                yield finding
            return
        async for finding in _Examination(patient, admin).findings():
            yield finding


async def _unreachable(connection: Connection, error: DiscoveryError) -> list[Finding]:
    servers = [connection.servers] if isinstance(connection.servers, str) else connection.servers
    findings = []
    for url in servers:
        try:
            text, todo = await what_listens(url)
        except ValueError as bad:
            raise InvalidValueError(f"not an address: {bad}") from bad
        # What can be reached refused us in its own words.
        findings.append(Finding("connect", BROKEN, f"{text} ({error})", todo))
    return findings


class _Examination:
    """All checks on a server that took us."""

    def __init__(self, patient: Patient, admin: Admin) -> None:
        self._patient = patient
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
        if not self._allowed.get(f"{self._inbox()}.{_PROBE}", True):
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
            self._patient.connection, self._admin, self._patient.namespace, self._patient.component
        )
        if services is not None:
            yield services
        if self._patient.role is not Role.READER:
            yield await self._round_trip()
        if self._patient.audit:
            async for finding in audit(self._admin):
                yield finding

    def _inbox(self) -> str:
        return str(self._patient.connection.nats_options.get("inbox_prefix", "_INBOX"))

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
        needed = self._patient.permissions(role)
        missing = [f"publish {subject}" for subject in needed.publish if not await self._may(subject, True)]
        missing += [
            f"subscribe {subject}" for subject in needed.subscribe if not await self._may(subject, False)
        ]
        order = list(Role)
        if not missing:
            return [Finding(f"role {role}", OK, f"this user may be {_article(role)}")]
        if order.index(role) > order.index(self._patient.role):
            text = f"this user is not {_article(role)}: {counted(len(missing), 'permission')} missing"
            return [Finding(f"role {role}", NOTE, text, "fine, unless it should be")]
        place = self._patient.place if role is not Role.OPERATOR else ""
        todo = f"grant what `natsdisc acl --role {role}{place}{self._patient.identity}` prints"
        return [Finding(f"role {role}", BROKEN, f"this user may not {what}", todo) for what in missing]

    async def _may(self, pattern: str, publish: bool) -> bool:
        subject = ".".join(_PROBE if token in ("*", ">") else token for token in pattern.split("."))
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
        name = f"bucket {BUCKETS[kind]}"
        if not self._may_look():
            return Finding(name, SKIPPED, "this user may not look at it")
        state = self._states[kind]
        if state is None and self._patient.create:
            try:
                await self._admin.make(BUCKETS[kind])
                state = self._states[kind] = await self._admin.state(BUCKETS[kind])
            except DiscoveryError as error:
                self._usable = False
                return Finding(name, BROKEN, f"could not be made: {error}", _todo_making(error))
        if state is None:
            self._usable = self._usable and kind is not Kind.ENDPOINT
            return Finding(
                name,
                NOTE,
                "is not there yet",
                "the first registration makes it, if its user may; or run `natsdisc doctor --create`",
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
        name = f"copies {BUCKETS[kind]}"
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
            where = f"is {_span(abs(offset))} {'ahead of' if offset > 0 else 'behind'} the server's"
        return Finding("clock", OK, f"ours {where}; it does not matter, leases run on the server's")

    async def _listing(self) -> Finding:
        names = (self._patient.namespace, self._patient.component)
        started = time.monotonic()
        try:
            async with self._patient.connection.open() as discovery:
                found = await discovery.list(endpoints(*names))
        except DiscoveryError as error:
            self._usable = False
            return Finding("list", BROKEN, str(error), _todo_using(error))
        text = f"{counted(len(found), 'endpoint')} in {(time.monotonic() - started) * 1000:.0f} ms"
        return Finding("list", OK, text)

    async def _round_trip(self) -> Finding:
        if not self._usable:
            return Finding("round trip", SKIPPED, "there is no bucket to write to")
        if any(not allowed for subject, allowed in self._allowed.items() if self._is_needed(subject)):
            return Finding("round trip", SKIPPED, "this user may not write")
        nonce = f"{_PROBE}-{secrets.token_hex(4)}"
        namespace, component = self._patient.namespace or nonce, self._patient.component or nonce
        spec = EndpointSpec(namespace, component, nonce, transport=Transport("doctor", "nowhere"))
        state = self._states.get(Kind.ENDPOINT)
        leased = state is None or state.leases or self._version().state == OK
        try:
            text = await self._go_round(spec, endpoints(namespace, component, nonce), leased)
        except (DiscoveryError, TimeoutError) as error:
            return Finding("round trip", BROKEN, str(error) or "took too long", _todo_using(error))
        return Finding("round trip", OK, text)

    def _is_needed(self, subject: str) -> bool:
        needed = self._patient.permissions(Role.REGISTRAR)
        return any(_covers(pattern, subject) for pattern in needed.publish)

    async def _go_round(self, spec: EndpointSpec, query: Query, leased: bool) -> str:
        ttl = _LEASE_TTL if leased else None
        times = []
        async with (
            self._patient.connection.open(lease_ttl=ttl) as discovery,
            discovery.list_and_watch(query) as events,
        ):
            await events.synced()
            started = time.monotonic()
            instance = await discovery.register(spec)
            times.append(("written", time.monotonic()))
            event = await anext(events)
            assert event == Added(instance), event
            times.append(("seen", time.monotonic()))
            if leased and keys.key_of(instance.id) not in await self._admin.leases(BUCKETS[Kind.ENDPOINT]):
                raise UnsupportedServerError("the server did not keep the lease of what was registered")
            await discovery.unregister(instance)
            times.append(("deleted", time.monotonic()))
            gone = await anext(events)
            assert gone == Removed(instance.id, natsdisc.RemovalReason.UNREGISTERED), gone
            times.append(("seen", time.monotonic()))
        steps = ", ".join(f"{word} after {(at - started) * 1000:.0f} ms" for word, at in times)
        return f"{steps}; {'with' if leased else 'without'} a lease"


def _article(role: Role) -> str:
    return f"an {role}" if role is Role.OPERATOR else f"a {role}"


def _covers(pattern: str, subject: str) -> bool:
    return subject == ".".join(_PROBE if token in ("*", ">") else token for token in pattern.split("."))


def _todo_making(error: DiscoveryError) -> str:
    if isinstance(error, PermissionDeniedError):
        return "let an operator run this (`natsdisc acl --role operator`)"
    return "check --replicas and --storage: R3 needs three servers"


def _todo_using(error: BaseException) -> str:
    if isinstance(error, PermissionDeniedError):
        return "grant what `natsdisc acl` prints"
    if isinstance(error, UnsupportedServerError):
        return "see the line of the bucket"
    if isinstance(error, StoreUnavailableError):
        # A leader that lost its followers goes on saying that it leads for some seconds.
        return "see the lines above; in a cluster there may be no quorum: start the servers that are missing"
    return "see the lines above, and the server's log"


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
