"""Writers and watchers at once, in two processes, and whether all of them come to see the same.

A `Fleet` registers instances, watches them, here and in a second process, and knows the truth. Its
`converged` waits until every watcher's fold, `list` and the buckets' own messages equal that truth, and fails
when any watcher was told something that could not follow from what it was told before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import nats
import nats.errors
import nats.js.errors

import natsdisc
from natsdisc import (
    Discovery,
    DiscoveryError,
    EndpointInstance,
    EndpointSpec,
    Instance,
    InstanceId,
    ModelSpec,
    Query,
    Spec,
    Transport,
    View,
    endpoints,
    wire,
)
from natsdisc.testing import crash

from .copies import read_copies
from .follower import DEADLINE, QUERIES, Follower, digest, opened_in
from .outpost import Outpost
from .plain import NAMESPACES, STREAMS, Plain, foreign

__all__ = [
    "DEADLINE",
    "MEASURED",
    "QUERIES",
    "STREAMS",
    "Fleet",
    "Follower",
    "Outpost",
    "Plain",
    "Stats",
    "digest",
    "foreign",
    "opened_in",
]

FOREIGN = 60  # numbers that a plain client's instances may have
REPLICA_LAG = 5.0
# Each fault and the seconds from its end until all was seen; the end of a test run prints them.
MEASURED: list[tuple[str, float]] = []

Stats = natsdisc.Stats


class Foreign(dict[InstanceId, Instance]):
    """What a plain client has registered, and when each of it last changed."""

    def __init__(self) -> None:
        super().__init__()
        self._changing: Counter[InstanceId] = Counter()
        self._changed: dict[InstanceId, float] = {}

    @contextlib.contextmanager
    def changing(self, ids: Iterable[InstanceId] | None = None) -> Iterator[None]:
        """Between these it is not known what is there of `ids`, or of all there are."""
        ids = list(self if ids is None else ids)
        self._changing.update(ids)
        try:
            yield
        finally:
            self._changing.subtract(ids)
            self._changed |= dict.fromkeys(ids, time.monotonic())

    def settled(self, id: InstanceId, since: float) -> bool:
        """Whether nothing has changed about `id` since that time."""
        return self._changing[id] <= 0 and self._changed.get(id, 0.0) < since


class Witness:
    """Lists again and again, whatever happens: an answer may fail, but what it says has to be so."""

    def __init__(self, discovery: Discovery, foreign: Foreign, *, replicas: int) -> None:
        self.problems: list[str] = []
        self.answers: Counter[str] = Counter()
        self._discovery, self._foreign = discovery, foreign
        # Any replica may answer, and all but the leader learn a little later what was written.
        self._lag = 0.0 if replicas == 1 else REPLICA_LAG
        self._task = asyncio.create_task(self._run())

    @contextlib.asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Without a consumer of its own meanwhile."""
        await self._end()
        try:
            yield
        finally:
            self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        await self._end()

    async def _end(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            before, known = time.monotonic() - self._lag, dict(self._foreign)
            try:
                listed = await self._discovery.list(endpoints())
            except DiscoveryError as error:
                self.answers[type(error).__name__] += 1
            else:
                self.answers["listed"] += 1
                self._compare(before, known, listed)
            await asyncio.sleep(0.2)  # others want to work, too

    def _compare(
        self, before: float, known: Mapping[InstanceId, Instance], answer: Sequence[Instance]
    ) -> None:
        listed = {instance.id: instance for instance in answer}
        for number in range(FOREIGN):
            id = foreign(number).id
            if known.get(id) != listed.get(id) and self._foreign.settled(id, before):
                self.problems.append(f"list said {listed.get(id)} where there was {known.get(id)}")


def _list(urls: str | Sequence[str] | None) -> list[str]:
    return [urls] if isinstance(urls, str) else list(urls or ())


class Writer:
    """A Discovery with endpoints and models of its own, some of which it has registered."""

    def __init__(self, discovery: Discovery, number: int, count: int) -> None:
        self.discovery = discovery
        self.specs: list[Spec] = []
        place = f"ns{number % NAMESPACES}", "comp"
        for at in range(count):
            if (number + at) % 5 in (0, 2, 4):
                transport = Transport.nats(f"address{at}")
                self.specs.append(EndpointSpec(*place, f"ep{at}", transport=transport))
            else:
                suffix = f"lora{at}" if at % 2 else None
                card = {"name": f"model{at}"}
                self.specs.append(ModelSpec(*place, f"ep{at}", card=card, model_suffix=suffix))

    async def register_all(self) -> None:
        await asyncio.gather(*(self.discovery.register(spec) for spec in self.specs))

    async def do_something(self, chance: random.Random) -> None:
        """Register, update or unregister one of its instances. Raises what that raises."""
        spec = chance.choice(self.specs)
        id = spec.with_instance_id(self.discovery.instance_id).id
        held = {registration.id: registration.instance for registration in self.discovery.registrations}
        instance = held.get(id)
        if instance is None:
            await self.discovery.register(spec)
        elif chance.random() < 0.2:
            await self.discovery.unregister(instance)
        elif isinstance(instance, EndpointInstance):
            await self.discovery.update(instance, transport=Transport.nats(f"new{chance.getrandbits(32)}"))
        else:
            await self.discovery.update(instance, card={"name": chance.getrandbits(32)})


class Fleet:
    """20 writers with two registrations each, and 25 watchers of five queries here and in another process.

    `watch_urls` and `write_urls` are where watchers and writers connect to, if they go through a proxy, and
    `outpost_urls` where those of the other process do, if somewhere else. `discoveries` is the number of
    watching Discoveries in each process, `each` the number of a writer's registrations. A witness lists all
    the time, where the watchers are. Views of all queries stand beside the first Discovery's watches.
    `copies` is the number of nodes whose copies of the buckets a plain client compares; with 0 it reads the
    stream alone.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        watch_urls: str | Sequence[str] | None = None,
        outpost_urls: str | Sequence[str] | None = None,
        write_urls: str | Sequence[str] | None = None,
        discoveries: int = 5,
        writers: int = 20,
        each: int = 2,
        lease_ttl: float = 10.0,
        replicas: int = 1,
        storage: Literal["file", "memory"] = "file",
        tombstone_ttl: float = 300.0,
        copies: int = 0,
    ) -> None:
        self.urls = _list(urls)
        self._watch_urls = _list(watch_urls) or self.urls
        self._outpost_urls = _list(outpost_urls) or self._watch_urls
        self._write_urls = _list(write_urls) or self.urls
        self._discoveries, self._writers, self._each = discoveries, writers, each
        self._copies = copies
        self._options: dict[str, Any] = {
            "lease_ttl": lease_ttl,
            "replicas": replicas,
            "storage": storage,
            "tombstone_ttl": tombstone_ttl,
        }
        self._open = contextlib.AsyncExitStack()
        self.writers: list[Writer] = []
        self.watching: list[Discovery] = []
        self.followers: list[Follower] = []
        self.views: list[tuple[Query, View[Any]]] = []
        self.foreign = Foreign()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as opening:
            self.outpost = await opening.enter_async_context(
                Outpost.running(self._outpost_urls, self._discoveries)
            )
            self.plain = await opening.enter_async_context(Plain.connected(self.urls))
            places = [[url] for url in self.urls] if self._copies > 1 else [self.urls]
            self.listers = [await opened_in(opening, urls) for urls in places]
            opened = (self._new_writer(number, opening) for number in range(self._writers))
            self.writers += await asyncio.gather(*opened)
            await asyncio.gather(*(writer.register_all() for writer in self.writers))
            witness = await opened_in(opening, self._watch_urls)
            self.witness = Witness(witness, self.foreign, replicas=self._options["replicas"])
            opening.push_async_callback(self.witness.aclose)
            for _ in range(self._discoveries):
                discovery = await opened_in(opening, self._watch_urls)
                self.watching.append(discovery)
                for query in QUERIES:
                    follower = Follower(discovery, query)
                    opening.push_async_callback(follower.aclose)
                    self.followers.append(follower)
            for query in QUERIES:
                view = await opening.enter_async_context(self.watching[0].view(query))
                self.views.append((query, view))
            await self.converged()
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    async def _new_writer(self, number: int, opened: contextlib.AsyncExitStack) -> Writer:
        discovery = await opened_in(opened, self._write_urls, **self._options)
        return Writer(discovery, number, self._each)

    async def crash_writer(self, number: int) -> None:
        """End a writer as `kill -9` would, and put another process in its place."""
        await crash(self.writers[number].discovery)
        self.writers[number] = await self._new_writer(number, self._open)

    def open_follower(self, at: int) -> Follower:
        """Put a new watch in the place of one, which the caller closes."""
        old = self.followers[at]
        self.followers[at] = Follower(old.discovery, old.query)
        self._open.push_async_callback(self.followers[at].aclose)
        return old

    @property
    def truth(self) -> dict[InstanceId, Instance]:
        """What is registered: by the writers, and by the plain client."""
        held = {
            registration.id: registration.instance
            for writer in self.writers
            for registration in writer.discovery.registrations
        }
        return held | self.foreign

    async def put_foreign(self, numbers: Iterable[int], plain: Plain | None = None) -> None:
        """Let a plain client register instances without a lease."""
        instances: dict[InstanceId, Instance] = {foreign(number).id: foreign(number) for number in numbers}
        with self.foreign.changing(instances):
            self.foreign.update(instances)
            await asyncio.gather(*((plain or self.plain).put(instance) for instance in instances.values()))

    async def delete_foreign(self, numbers: Iterable[int], plain: Plain | None = None) -> None:
        """Let a plain client delete what it had registered."""
        ids = [foreign(number).id for number in numbers]
        with self.foreign.changing(ids):
            for id in ids:
                self.foreign.pop(id, None)
            await asyncio.gather(*map((plain or self.plain).delete, ids))

    async def lose_everything(self) -> None:
        """Delete the buckets."""
        with self.foreign.changing():
            await self.plain.drop_buckets()
            self.foreign.clear()

    @contextlib.asynccontextmanager
    async def churning(self, seed: int = 1) -> AsyncIterator[None]:
        """Let the writers change something all the time; what is under way is finished at the end."""
        chance, stop = random.Random(seed), asyncio.Event()

        async def churn(writer: Writer) -> None:
            while not stop.is_set():
                await writer.do_something(chance)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):  # so many changes a second
                        await stop.wait()

        async with asyncio.TaskGroup() as group:
            for writer in self.writers:
                group.create_task(churn(writer))
            try:
                yield
            finally:
                stop.set()

    async def events(self) -> int:
        """How many events all watchers have had."""
        there = await self.outpost.reports()
        here = sum(follower.counts.total() for follower in self.followers)
        return here + sum(int(report["events"]) for report in there)

    async def removed(self) -> set[str]:
        """The ids that any watcher was ever told to be gone."""
        there = await self.outpost.reports()
        here = {str(id) for follower in self.followers for id in follower.removed}
        return here.union(*(report["removed"] for report in there))

    def resyncs(self) -> Counter[str]:
        """Why the watchers of this process took new snapshots, over all its Discoveries."""
        total: Counter[str] = Counter()
        for discovery in self.watching:
            total.update(discovery.stats().resyncs)
        return total

    async def converged(
        self, fault: str | None = None, since: float | None = None, *, timeout: float = DEADLINE
    ) -> None:
        """Wait until every fold, `list` and the buckets equal the truth; `since` is when `fault` ended.

        Raises AssertionError at the deadline (seconds), or when a watcher's events were not legal.
        """
        since = time.monotonic() if since is None else since
        while True:
            began = time.monotonic()
            wrong = await self._wrong_folds()
            took = time.monotonic() - since
            wrong = wrong or await self._wrong_lists()
            if not wrong:
                break
            if took > timeout:
                wrong += [*await self._wrong_lists(), *self._not_active()]
                told = "\n".join(line[:1000] for line in [*wrong[:10], *wrong[10:][-20:]])
                raise AssertionError(f"{fault}: after {took:.1f} s\n{told}")
            # Everybody in this process has as much of it as this comparison.
            await asyncio.sleep(max(0.02, time.monotonic() - began))
        await self.check_legal()
        if fault is not None:
            self.measured(fault, since)

    @staticmethod
    def measured(fault: str, since: float) -> None:
        """Note for the end of the test run how long it took."""
        took = time.monotonic() - since
        MEASURED.append((fault, took))
        print(f"{fault}: {took:.2f} s after its end")

    async def check_legal(self) -> None:
        """Raise AssertionError if any watcher was told what could not be."""
        problems = [problem for follower in self.followers for problem in follower.problems]
        problems += self.witness.problems
        problems += [problem for report in await self.outpost.reports() for problem in report["problems"]]
        assert not problems, "\n".join(problems[:20])

    async def _wrong_folds(self) -> list[str]:
        wrong = []
        truths = {query: self._truth_of(query) for query in QUERIES}
        for follower in self.followers:
            if follower.outcome is not None:
                wrong.append(f"the watch of {follower.query} here ended: {follower.outcome!r}")
            elif follower.live != truths[follower.query]:
                wrong.append(f"{follower.query} here: {_apart(follower.live, truths[follower.query])}")
        for query, view in self.views:
            if {instance.id: instance for instance in view.instances} != truths[query]:
                wrong.append(f"view of {query}: {_apart({i.id for i in view.instances}, truths[query])}")
        return wrong or await self.wrong_there()

    def _truth_of(self, query: Query) -> dict[InstanceId, Instance]:
        return {id: instance for id, instance in self.truth.items() if query.matches(id)}

    async def wrong_there(self) -> list[str]:
        """What the watchers of the second process see that is not the truth."""
        reports = await self.outpost.reports()
        truths = {query: self._truth_of(query) for query in QUERIES}
        digests = {query: digest(truth.values()) for query, truth in truths.items()}
        wrong = []
        for at, report in enumerate(reports):
            query = QUERIES[at % len(QUERIES)]
            if report["outcome"] is not None:
                wrong.append(f"the watch of {query} in the second process ended: {report['outcome']}")
            elif report["digest"] != digests[query]:
                wrong.append(f"{query} in the second process: {_apart(report['live'], truths[query])}")
        return wrong

    def _not_active(self) -> list[str]:
        """The writers who do not hold what they registered, and in which state they are."""
        found = []
        for at, writer in enumerate(self.writers):
            states = Counter(str(registration.state) for registration in writer.discovery.registrations)
            if set(states) - {"active"}:
                found.append(f"writer {at}: {dict(states)}, {writer.discovery.stats()}")
        return found

    async def _wrong_lists(self) -> list[str]:
        wrong = []
        try:
            for lister, query in itertools.product(self.listers, QUERIES):
                listed = {instance.id: instance for instance in await lister.list(query)}
                truth = {id: instance for id, instance in self.truth.items() if query.matches(id)}
                if listed != truth:
                    wrong.append(f"list of {query}: {_apart(listed.keys(), truth)}")
            stored = await self.plain.stored()
            if stored != {Plain.subject(id): wire.dumps(instance) for id, instance in self.truth.items()}:
                wrong.append("the buckets hold something else")
            wrong += wrong or await self._wrong_copies()
        except (DiscoveryError, nats.errors.Error, AssertionError) as error:
            return [*wrong, repr(error)]
        return wrong

    async def _wrong_copies(self) -> list[str]:
        """Return which nodes deliver to a plain client something else than what there is."""
        wrong = []
        for stream in STREAMS if self._copies else ():
            values = f"$KV.{stream.removeprefix('KV_')}."
            truth = {Plain.subject(id): wire.dumps(instance) for id, instance in self.truth.items()}
            truth = {subject: value for subject, value in truth.items() if subject.startswith(values)}
            for node, copy in (await read_copies(self.plain.client, stream, self._copies)).items():
                if copy.values != truth:
                    wrong.append(
                        f"the copy of {stream} on {node or 'the node'}: {_apart(copy.values, truth)}"
                    )
        return wrong


def _apart(seen: Iterable[object], truth: Iterable[object]) -> str:
    """Say in what way what is seen differs from what there is."""
    shown, there = set(map(str, seen)), set(map(str, truth))
    return f"ghosts {sorted(shown - there)}, missing {sorted(there - shown)}, or old values"
