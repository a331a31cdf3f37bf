"""Which role can do what to whom, tried on a real server, and compared with the table in docs/security.md."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from natsdisc.acl import Permissions, Role, inbox_prefix_of, permissions
from natsdisc.server import NatsServer
from tests.server.raw import Raw, headers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
PASSWORD = "pw"
PATIENCE = 20.0
BUCKET, ELSEWHERE = "v1_instances", "other_v1_instances"
STREAM = f"KV_{BUCKET}"


def role(name: str, *arguments: Any, **options: Any) -> Permissions:
    return permissions(*arguments, inbox_prefix=inbox_prefix_of(name), **options)


# The columns of the table, and the users that stand for them.
COLUMNS = {
    "reader": "reader",
    "reader of a namespace": "shop-reader",
    "registrar of a namespace": "registrar",
    "the same with `--create`": "creator",
    "operator": "operator",
    "another prefix": "elsewhere",
    "another account": "lab",
}
USERS = {
    "reader": role("reader", Role.READER),
    "shop-reader": role("shop-reader", Role.READER, namespace="shop"),
    "registrar": role("registrar", Role.REGISTRAR, namespace="shop"),
    "creator": role("creator", Role.REGISTRAR, namespace="shop", create=True),
    "operator": role("operator", Role.OPERATOR),
    "elsewhere": role("elsewhere", Role.REGISTRAR, bucket_prefix="other"),
    "victim": role("victim", Role.REGISTRAR, namespace="bank"),
}


def config() -> str:
    users = "\n".join(
        f"{{ user: {name}, password: {PASSWORD}, {allowed.as_conf()} }}" for name, allowed in USERS.items()
    )
    return (
        f"accounts {{\nA {{ jetstream: enabled, users: [\n{{ user: admin, password: {PASSWORD} }}\n"
        f"{users}\n] }}\n"
        f"LAB {{ jetstream: enabled, users: [ {{ user: lab, password: {PASSWORD} }} ] }}\n}}"
    )


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    with NatsServer(config=config()) as server:
        yield server


class Scene:
    """Two buckets with an entry and a lease of the victim's, an attacker, and an administrator who looks."""

    KEY, LEASE = f"$KV.{BUCKET}.bank.pay.e.1", f"$NATSDISC.LEASE.{BUCKET}.bank.pay.e.1"
    LATER = "2099-01-01T00:00:00Z"

    def __init__(self, server: NatsServer, user: str) -> None:
        self.user = user
        self.admin = Raw(server.port, "admin", PASSWORD)
        for bucket in (BUCKET, ELSEWHERE, "v1_mdc"):
            self.api(f"STREAM.DELETE.KV_{bucket}")
        for bucket in (BUCKET, ELSEWHERE):
            made = self.api(f"STREAM.CREATE.KV_{bucket}", self.stream(bucket))
            assert "error" not in made, made
        self.admin.publish(self.KEY, b"value", headers("Natsdisc-Leased: 10"))
        lease = (f"Nats-Schedule: @at {self.LATER}", f"Nats-Schedule-Target: {self.KEY}", "KV-Operation: DEL")
        self.admin.publish(self.LEASE, b"", headers(*lease))
        self.admin.publish(f"$KV.{BUCKET}.shop.cart.e.1", b"shop")
        self.admin.publish(f"$KV.{ELSEWHERE}.shop.cart.e.1", b"shop")
        self.admin.sync()
        self.before = self.last(self.KEY)
        assert self.before is not None
        self.raw = Raw(server.port, user, PASSWORD)
        # Names that the attacker may use as its own.
        self.bucket = ELSEWHERE if user == "elsewhere" else BUCKET
        self.own_stream = f"KV_{self.bucket}"
        self.own_key = f"$KV.{self.bucket}.shop.cart.e.9"
        self.own_lease = f"$NATSDISC.LEASE.{self.bucket}.shop.cart.e.9"

    def close(self) -> None:
        for raw in (self.raw, self.admin):
            raw.__exit__(None, None, None)

    @staticmethod
    def stream(bucket: str) -> dict[str, Any]:
        return {
            "name": f"KV_{bucket}",
            "subjects": [f"$KV.{bucket}.>", f"$NATSDISC.LEASE.{bucket}.>"],
            "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "discard": "old",
            "allow_msg_ttl": True,
            "allow_msg_schedules": True,
            "storage": "memory",
        }

    def api(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What an administrator is answered."""
        answer = self.admin.request(f"$JS.API.{subject}", json.dumps(body).encode() if body else b"")
        assert answer is not None
        fields: dict[str, Any] = json.loads(answer)
        return fields

    def last(self, subject: str) -> int | None:
        found = self.api(f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": subject})
        return int(found["message"]["seq"]) if "message" in found else None

    def written(self) -> int:
        return int(self.api(f"STREAM.INFO.{STREAM}")["state"]["last_seq"])

    def ask(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the attacker is answered; an error when it is refused or nobody answers."""
        inbox = f"{inbox_prefix_of(self.user)}.x" if self.user != "lab" else "_INBOX.x"
        payload = json.dumps(body).encode() if body else b""
        answer = self.raw.request(f"$JS.API.{subject}", payload, inbox=inbox)
        return json.loads(answer) if answer else {"error": "refused"}

    def send(self, subject: str, payload: bytes = b"", *lines: str, reply: str = "") -> bool:
        """Whether the server took a message."""
        refused = len(self.raw.refused)
        self.raw.publish(subject, payload, headers(*lines) if lines else b"", reply=reply)
        self.raw.sync()
        return len(self.raw.refused) == refused

    def comes(self, condition: Callable[[], bool]) -> bool:
        """Wait for what the server does later; only asked where the server took what causes it."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def read_values(scene: Scene) -> bool:
    found = scene.ask(f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": scene.KEY})
    inside = f"$KV.{BUCKET}.bank.>"
    settings = {"name": "x", "deliver_subject": "x", "ack_policy": "none", "filter_subject": inside}
    body = {"stream_name": STREAM, "config": settings}
    made = scene.ask(f"CONSUMER.CREATE.{STREAM}.x.{inside}", body)
    return "message" in found or "error" not in made


def read_keys(scene: Scene) -> bool:
    info = scene.ask(f"STREAM.INFO.{STREAM}", {"subjects_filter": "$KV.>"})
    return scene.KEY in info.get("state", {}).get("subjects", {})


def write(scene: Scene) -> bool:
    scene.send(scene.KEY, b"forged")
    return scene.last(scene.KEY) != scene.before


def rubbish(scene: Scene) -> bool:
    scene.send(f"$JS.API.CONSUMER.INFO.{scene.own_stream}.none", b"", reply=scene.KEY)
    # The answer is on its way when another one has come back.
    scene.ask(f"CONSUMER.INFO.{scene.own_stream}.none")
    return scene.last(scene.KEY) != scene.before


def end_leases(scene: Scene) -> bool:
    end = ("KV-Operation: DEL", f"Nats-Scheduler: {scene.LEASE}", "Nats-Schedule-Next: purge")
    scene.send(scene.own_key, b"", *end)
    return scene.last(scene.LEASE) is None


def schedule(scene: Scene) -> bool:
    lines = ("Nats-Schedule: @at 2020-01-01T00:00:00Z", f"Nats-Schedule-Target: {scene.KEY}")
    before = scene.written()
    scene.send(scene.own_lease, b"forged", *lines)
    if scene.written() == before:
        return False
    return scene.comes(lambda: scene.last(scene.KEY) != scene.before)


def clear(scene: Scene) -> bool:
    scene.send(scene.own_key, b"", "Nats-Rollup: all")
    return scene.last(scene.KEY) is None


def use_up_consumers(scene: Scene) -> bool:
    made = 0
    for number in range(3):
        inside = f"$KV.{scene.bucket}.shop.>"
        settings = {
            "name": f"u{number}",
            "deliver_subject": "x.y",
            "ack_policy": "none",
            "filter_subject": inside,
        }
        body = {"stream_name": scene.own_stream, "config": settings}
        answer = scene.ask(f"CONSUMER.CREATE.{scene.own_stream}.u{number}.{inside}", body)
        made += "error" not in answer
    return made == 3 and scene.own_stream == STREAM


def deliver(scene: Scene) -> bool:
    scene.admin.subscribe("orders.new")
    scene.admin.sync()
    inside = f"$KV.{scene.bucket}.shop.>"
    settings = {
        "name": "d",
        "deliver_subject": "orders.new",
        "ack_policy": "none",
        "deliver_policy": "last_per_subject",
        "filter_subject": inside,
    }
    made = scene.ask(
        f"CONSUMER.CREATE.{scene.own_stream}.d.{inside}",
        {"stream_name": scene.own_stream, "config": settings},
    )
    if "error" in made:
        return False

    def arrived() -> bool:
        scene.admin.sync()
        # A delivery keeps its own subject.
        return any(subject.startswith("$KV.") for subject, _ in scene.admin.received)

    return scene.comes(arrived)


def take_the_account(scene: Scene) -> bool:
    """Have a stream of an allowed name take in a subject of others, or send out everything that it holds."""
    loot = {"name": "KV_v1_mdc", "subjects": ["secret.>"], "storage": "memory"}
    made = scene.ask("STREAM.CREATE.KV_v1_mdc", loot)
    if "error" not in made:
        scene.admin.publish("secret.plan", b"x")
        scene.admin.sync()
        found = scene.api("STREAM.INFO.KV_v1_mdc")
        return "error" not in found and found["state"]["messages"] == 1
    wider = {**Scene.stream(BUCKET), "republish": {"src": ">", "dest": "loot.>"}}
    return "error" not in scene.ask(f"STREAM.UPDATE.{STREAM}", wider)


def read_inboxes(scene: Scene) -> bool:
    inbox = inbox_prefix_of("victim")
    scene.raw.subscribe(f"{inbox}.>")
    scene.raw.sync()
    scene.admin.publish(f"{inbox}.1", b"answer")
    scene.admin.sync()
    scene.raw.sync()
    return any(subject.startswith(inbox) for subject, _ in scene.raw.received)


def forge_answers(scene: Scene) -> bool:
    inbox = inbox_prefix_of("victim")
    scene.admin.subscribe(f"{inbox}.>")
    scene.admin.sync()
    scene.send(f"{inbox}.1", b"forged")
    scene.admin.sync()
    return any(subject.startswith(inbox) for subject, _ in scene.admin.received)


def delete(scene: Scene) -> bool:
    for verb in ("DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN"):
        scene.ask(f"STREAM.{verb}.{STREAM}", {"seq": 1} if verb == "MSG.DELETE" else None)
    return "error" in scene.api(f"STREAM.INFO.{STREAM}") or scene.last(scene.KEY) != scene.before


def fill(scene: Scene) -> bool:
    before = scene.written()
    for number in range(3):
        scene.send(f"$KV.{scene.bucket}.shop.new.{number}.1", b"x" * 1000)
        question = f"$JS.API.CONSUMER.INFO.{scene.own_stream}.none"
        scene.send(question, b"", reply=f"$KV.{BUCKET}.shop.answer.{number}.1")
    scene.ask(f"CONSUMER.INFO.{scene.own_stream}.none")
    return scene.written() >= before + 3


# The rows of the table.
ACTIONS: dict[str, Callable[[Scene], bool]] = {
    "read entries of other namespaces": read_values,
    "see the keys of all namespaces": read_keys,
    "write others' entries": write,
    "overwrite others' entries and leases with invalid values": rubbish,
    "take others' leases off": end_leases,
    "have a schedule write to others' keys": schedule,
    "clear the bucket by a rollup": clear,
    "use up the consumers of the bucket": use_up_consumers,
    "have entries delivered to any listener of the account": deliver,
    "read and write the whole account through a stream": take_the_account,
    "read others' answers (inboxes)": read_inboxes,
    "send forged answers to others' inboxes": forge_answers,
    "delete, purge or restore the bucket by the API": delete,
    "fill the account's storage": fill,
}


def table() -> dict[str, dict[str, str]]:
    """The cells of the page: by row, then by column."""
    section = PAGE.read_text("utf-8").partition("## Rights of each role\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_the_table_has_all_roles_and_actions() -> None:
    found = table()
    assert list(found) == list(ACTIONS)
    assert all(list(cells) == list(COLUMNS) for cells in found.values())


@pytest.mark.parametrize("action", ACTIONS)
def test_the_table_says_what_the_server_allows(guarded: NatsServer, action: str) -> None:
    allowed = {}
    for column, user in COLUMNS.items():
        scene = Scene(guarded, user)
        try:
            allowed[column] = "yes" if ACTIONS[action](scene) else "no"
        finally:
            scene.close()
    print(f"| {action} | {' | '.join(allowed.values())} |")
    assert table()[action] == allowed


def test_a_shared_inbox_prefix_shows_each_others_answers() -> None:
    """What the default of `natsdisc acl` avoids."""
    shared = permissions(Role.READER, namespace="shop")
    users = ", ".join(f"{{ user: {name}, password: p, {shared.as_conf()} }}" for name in ("a", "b"))
    with (
        NatsServer(config=f"authorization {{ users: [ {users} ] }}") as server,
        Raw(server.port, "a", "p") as one,
    ):
        one.subscribe("_INBOX.>")
        one.sync()
        with Raw(server.port, "b", "p") as other:
            other.request(f"$JS.API.CONSUMER.INFO.{STREAM}.none", inbox="_INBOX.b")
        one.sync()
        assert [subject.startswith("_INBOX.b.") for subject, _ in one.received] == [True]


# Roles and subjects


READERS = {"reader", "shop-reader"}
REGISTRARS = {"registrar", "creator"}
LOOKERS = {"reader", "operator", *REGISTRARS}
ALL = {"reader", "shop-reader", "operator", *REGISTRARS}
WRITERS = {"operator", *REGISTRARS}
# Subjects that a user may want to publish to, and the users who may.
PUBLISH: dict[str, set[str]] = {
    f"$JS.API.STREAM.INFO.{STREAM}": LOOKERS,
    f"$JS.API.STREAM.MSG.GET.{STREAM}": WRITERS,
    f"$JS.API.STREAM.CREATE.{STREAM}": {"operator", "creator"},
    f"$JS.API.STREAM.UPDATE.{STREAM}": {"operator"},
    f"$JS.API.CONSUMER.CREATE.{STREAM}.x.$KV.{BUCKET}.shop.>": ALL,
    f"$JS.API.CONSUMER.CREATE.{STREAM}.x.$KV.{BUCKET}.bank.>": {"reader", "operator"},
    f"$JS.API.CONSUMER.CREATE.{STREAM}.x.$KV.{BUCKET}.>": {"reader", "operator"},
    f"$JS.API.CONSUMER.CREATE.{STREAM}.x.$NATSDISC.LEASE.{BUCKET}.>": set(),
    f"$JS.API.CONSUMER.CREATE.{STREAM}.x": set(),
    f"$JS.API.CONSUMER.CREATE.{STREAM}": set(),
    f"$JS.API.CONSUMER.INFO.{STREAM}.x": ALL,
    f"$JS.API.CONSUMER.DELETE.{STREAM}.x": ALL,
    f"$KV.{BUCKET}.shop.cart.e.1": WRITERS,
    f"$KV.{BUCKET}.shopping.cart.e.1": {"operator"},
    f"$KV.{BUCKET}.bank.pay.e.1": {"operator"},
    f"$NATSDISC.LEASE.{BUCKET}.sweep": WRITERS,
    f"$NATSDISC.LEASE.{BUCKET}.shop.cart.e.1": WRITERS,
    f"$NATSDISC.LEASE.{BUCKET}.bank.pay.e.1": {"operator"},
    f"$KV.{ELSEWHERE}.shop.cart.e.1": {"elsewhere"},
    f"$NATSDISC.LEASE.{ELSEWHERE}.bank.pay.e.1": {"elsewhere"},
    f"$JS.API.STREAM.INFO.KV_{ELSEWHERE}": {"elsewhere"},
    "$JS.FC.x.y": {*ALL, "elsewhere"},
    **{
        f"$JS.API.{subject}": set()
        for subject in (
            "INFO",
            "ACCOUNT.PURGE.A",
            "STREAM.LIST",
            "STREAM.NAMES",
            "STREAM.CREATE.x",
            *(f"STREAM.{verb}.{STREAM}" for verb in ("DELETE", "PURGE", "SNAPSHOT", "RESTORE", "MSG.DELETE")),
            *(f"STREAM.{verb}.{STREAM}" for verb in ("LEADER.STEPDOWN", "PEER.REMOVE")),
            f"DIRECT.GET.{STREAM}",
            f"DIRECT.GET.{STREAM}.$KV.{BUCKET}.shop.cart.e.1",
            *(f"CONSUMER.{verb}.{STREAM}" for verb in ("LIST", "NAMES")),
            *(
                f"CONSUMER.{verb}.{STREAM}.x"
                for verb in ("MSG.NEXT", "DURABLE.CREATE", "PAUSE", "UNPIN", "RESET")
            ),
            f"CONSUMER.LEADER.STEPDOWN.{STREAM}.x",
            "META.LEADER.STEPDOWN",
            "SERVER.REMOVE",
        )
    },
    "$SYS.REQ.SERVER.PING": set(),
    "$SYS.REQ.ACCOUNT.A.CONNZ": set(),
    "$JS.ACK.x.y": set(),
    "$JS.EVENT.ADVISORY.STREAM.CREATED.KV_v1_instances": set(),
    "_INBOX.x": set(),
    "_INBOX_victim.x": set(),
    "orders.new": set(),
}
SUBSCRIBE: dict[str, set[str]] = {
    "$JS.EVENT.ADVISORY.STREAM.CREATED.KV_v1_instances": ALL,
    "$JS.EVENT.ADVISORY.STREAM.DELETED.KV_v1_instances": set(),
    "$JS.EVENT.ADVISORY.>": set(),
    "$KV.>": set(),
    f"$KV.{BUCKET}.shop.>": set(),
    f"$NATSDISC.LEASE.{BUCKET}.>": set(),
    "$JS.API.>": set(),
    "$JS.FC.>": set(),
    "$SYS.>": set(),
    "_INBOX.>": set(),
    "_INBOX_victim.>": set(),
    "_INBOX_victim.x": set(),
    "*.x": set(),
    ">": set(),
}


@pytest.mark.parametrize("user", ["reader", "shop-reader", "registrar", "creator", "operator", "elsewhere"])
def test_the_matrix_of_roles_and_subjects(guarded: NatsServer, user: str) -> None:
    with Raw(guarded.port, user, PASSWORD) as raw:
        for verb, matrix in (("publish", PUBLISH), ("subscribe", {**SUBSCRIBE, f"_INBOX_{user}.>": {user}})):
            for subject, users in matrix.items():
                before = len(raw.refused)
                if verb == "publish":
                    raw.publish(subject, b"no request")
                else:
                    raw.subscribe(subject)
                raw.sync()
                allowed = len(raw.refused) == before
                assert allowed == (user in users), f"{user} {verb} {subject}: {raw.refused[before:]}"


def test_every_permission_that_is_printed_is_in_the_matrix() -> None:
    """A subject that is granted and not tried would be a hole in the matrix."""
    for user in ("reader", "shop-reader", "registrar", "creator", "operator"):
        for pattern in USERS[user].publish:
            if any(bucket in pattern for bucket in ("v1_mdc", "v1_event_")):
                continue
            words = [
                r"[^.]+" if word == "*" else ".+" if word == ">" else re.escape(word)
                for word in pattern.split(".")
            ]
            matching = [subject for subject in PUBLISH if re.fullmatch(r"\.".join(words), subject)]
            assert any(user in PUBLISH[subject] for subject in matching), pattern
