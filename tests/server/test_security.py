"""Each way to log in, once through `natsdisc.connect` and once through the command line."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys
import pytest

import natsdisc
from natsdisc import EndpointSpec, PermissionDeniedError, Transport, endpoints
from natsdisc.acl import Permissions, Role, permissions
from natsdisc.server import NatsServer
from tests.server.shell import COMMAND, Shell, fails

CERTIFICATES = Path(__file__).resolve().parents[2] / "docker" / "certs" / "make.sh"
SPEC = EndpointSpec("shop", "cart", "pay", transport=Transport.nats("shop.pay"))


@dataclass(frozen=True)
class Login:
    """A server that takes one kind of credentials: those of a user, and those of somebody else."""

    url: str
    options: dict[str, Any]
    arguments: list[str]
    wrong_options: dict[str, Any]
    wrong_arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)  # the same as `arguments`


@dataclass
class Key:
    """An NKey: its seed, its public name, and signatures."""

    seed: bytes
    public: str = ""

    def __post_init__(self) -> None:
        self.public = nkeys.from_seed(bytearray(self.seed)).public_key.decode()

    @classmethod
    def make(cls, prefix: int) -> Key:
        return cls(bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix)))

    def jwt(self, kind: str, subject: str, **claims: Any) -> str:
        """What this key says of `subject`, as nats-server takes it."""
        body = {
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject,
            "name": kind,
            "nats": {"type": kind, "version": 2, **claims},
        }
        body["jti"] = (
            base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        )
        parts = [_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
        signed = ".".join(parts)
        return f"{signed}.{_base64(nkeys.from_seed(bytearray(self.seed)).sign(signed.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def credentials(jwt: str, key: Key) -> str:
    """The text of a credentials file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
    )


class Operator:
    """An operator with one account, and users with what a role needs: a JWT for each."""

    def __init__(self) -> None:
        self._operator = Key.make(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Key.make(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def config(self) -> str:
        """What a server needs to know: the operator and, in its memory, the account."""
        unlimited = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
        stores = ("mem_storage", "disk_storage", "streams", "consumer")
        limits = {**dict.fromkeys(unlimited, -1), "wildcards": True}
        system = Key.make(nkeys.PREFIX_BYTE_ACCOUNT)
        accounts = {
            system.public: self._operator.jwt("account", system.public, limits=limits),
            self._account.public: self._operator.jwt(
                "account", self._account.public, limits={**limits, **dict.fromkeys(stores, -1)}
            ),
        }
        preload = "\n".join(f"{name}: {jwt}" for name, jwt in accounts.items())
        return (
            f"operator: {self._operator.jwt('operator', self._operator.public)}\n"
            f"system_account: {system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
        )

    def user(self, allowed: Permissions) -> str:
        """The credentials file of a new user."""
        key = Key.make(nkeys.PREFIX_BYTE_USER)
        claims = {
            "pub": {"allow": [*allowed.publish]},
            "sub": {"allow": [*allowed.subscribe]},
            **dict.fromkeys(("subs", "data", "payload"), -1),
        }
        return credentials(self._account.jwt("user", key.public, **claims), key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logins")


@contextmanager
def mtls(folder: Path) -> Iterator[Login]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: nothing makes certificates")
    ours, theirs = folder / "ours", folder / "theirs"
    for made in (ours, theirs):
        made.mkdir()
        subprocess.run(["sh", str(CERTIFICATES), str(made)], check=True, capture_output=True)

    def tls(made: Path) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=ours / "ca.pem")
        context.load_cert_chain(made / "lab.pem", made / "lab.key")
        return context

    def arguments(made: Path) -> list[str]:
        return [
            *("--tlsca", str(ours / "ca.pem")),
            *("--tlscert", str(made / "lab.pem"), "--tlskey", str(made / "lab.key")),
        ]

    config = (
        f'tls {{ cert_file: "{ours}/server.pem", key_file: "{ours}/server.key", ca_file: "{ours}/ca.pem", '
        "verify: true }"
    )
    with NatsServer(config=config) as server:
        yield Login(
            server.url,
            {"tls": tls(ours)},
            arguments(ours),
            {"tls": tls(theirs)},
            arguments(theirs),
            {
                "NATS_CA": str(ours / "ca.pem"),
                "NATS_CERT": str(ours / "lab.pem"),
                "NATS_KEY": str(ours / "lab.key"),
            },
        )


@contextmanager
def creds(folder: Path) -> Iterator[Login]:
    operator = Operator()
    ours, theirs = folder / "ours.creds", folder / "theirs.creds"
    ours.write_text(operator.user(permissions(Role.OPERATOR)))
    theirs.write_text(Operator().user(permissions(Role.OPERATOR)))
    with NatsServer(config=operator.config) as server:
        yield Login(
            server.url,
            {"user_credentials": str(ours)},
            ["--creds", str(ours)],
            {"user_credentials": str(theirs)},
            ["--creds", str(theirs)],
            {"NATS_CREDS": str(ours)},
        )


@contextmanager
def nkey(folder: Path) -> Iterator[Login]:
    ours, theirs = Key.make(nkeys.PREFIX_BYTE_USER), Key.make(nkeys.PREFIX_BYTE_USER)
    files = folder / "ours.nk", folder / "theirs.nk"
    for file, key in zip(files, (ours, theirs), strict=True):
        file.write_bytes(key.seed)
    with NatsServer(config=f"authorization {{ users: [ {{ nkey: {ours.public} }} ] }}") as server:
        yield Login(
            server.url,
            {"nkeys_seed": str(files[0])},
            ["--nkey", str(files[0])],
            {"nkeys_seed": str(files[1])},
            ["--nkey", str(files[1])],
            {"NATS_NKEY": str(files[0])},
        )


@contextmanager
def token(folder: Path) -> Iterator[Login]:
    with NatsServer(config='authorization { token: "se cret" }') as server:
        yield Login(
            server.url,
            {"token": "se cret"},
            ["--token", "se cret"],
            {"token": "guessed"},
            ["--token", "guessed"],
            {"NATS_TOKEN": "se cret"},
        )


@pytest.fixture(scope="module", params=[mtls, creds, nkey, token], ids=lambda way: way.__name__)
def login(request: pytest.FixtureRequest, folder: Path) -> Iterator[Login]:
    with request.param(folder) as login:
        yield login


async def test_connect_registers_and_lists(login: Login) -> None:
    async with natsdisc.connect(login.url, **login.options) as discovery:
        mine = await discovery.register(SPEC)
        async with natsdisc.connect(login.url, **login.options) as other:
            assert await other.list(endpoints()) == [mine]


async def test_the_command_line_registers_and_lists(login: Login, shell: Shell) -> None:
    where = ["-s", login.url, *login.arguments]
    listing = ["--", *COMMAND, "ls", "--json", *where]
    outcome = await shell.run("register", "shop", "cart", "pay", "-t", "nats=shop.pay", *where, *listing)
    assert outcome.code == 0, outcome
    assert [one["endpoint"] for one in json.loads(outcome.out)] == ["pay"]
    shell.environment |= {"NATS_URL": login.url, **login.environment}
    assert (await shell.run("ls", "--json")).out == "[]\n"


async def test_somebody_elses_credentials_are_refused(login: Login, shell: Shell) -> None:
    with pytest.raises(natsdisc.DiscoveryError) as caught:
        await natsdisc.connect(login.url, **login.wrong_options)
    assert isinstance(caught.value, (PermissionDeniedError, natsdisc.StoreUnavailableError))
    fails(await shell.run("ls", "-s", login.url, *login.wrong_arguments), 3, login.url)
    fails(await shell.run("ls", "-s", login.url), 3, login.url)


async def test_a_jwt_confines_its_user_as_the_configuration_does(folder: Path) -> None:
    """What `natsdisc acl --format nsc` sets are these claims."""
    operator = Operator()
    reader, registrar, chief = (folder / f"{name}.creds" for name in ("reader", "registrar", "chief"))
    reader.write_text(operator.user(permissions(Role.READER)))
    registrar.write_text(operator.user(permissions(Role.REGISTRAR, namespace="shop")))
    chief.write_text(operator.user(permissions(Role.OPERATOR)))
    with NatsServer(config=operator.config) as server:

        def connect(creds: Path) -> natsdisc.Connecting:
            return natsdisc.connect(server.url, user_credentials=str(creds))

        async with connect(chief) as one, connect(registrar) as two, connect(reader) as three:
            first = await one.register(SPEC)
            second = await two.register(EndpointSpec("shop", "cart", "b", transport=Transport.nats("x")))
            assert set(await three.list(endpoints())) == {first, second}
            with pytest.raises(PermissionDeniedError):
                await two.register(
                    EndpointSpec("other", "c", "e", transport=Transport.nats("x")), lease_ttl=None
                )
            with pytest.raises(PermissionDeniedError):
                await three.unregister(first)
            assert set(await three.list(endpoints())) == {first, second}
