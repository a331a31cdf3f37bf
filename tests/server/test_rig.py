"""The docker rig: its files are valid, and its server configurations run as they are, as plain processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.request
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

import natsdisc
from natsdisc import Added, EndpointSpec, PermissionDeniedError, Transport, endpoints
from natsdisc.acl import inbox_prefix_of
from tests.rig import eventually, server_binary
from tests.server.shell import COMMAND, Shell, ended, line_of

DOCKER = Path(__file__).resolve().parents[2] / "docker"
COMPOSE = (DOCKER / "compose.yaml").read_text()
CONFIGS = ("single.conf", "cluster.conf", "secure.conf", "tenants.conf", "imports.conf")
SPEC = EndpointSpec("ns", "comp", "ep", transport=Transport.nats("addr"))
PATIENCE = 60.0
DIFFERENT = {"8000": "0", "python": sys.executable}  # a port that is free here, and our own interpreter


def compose(*arguments: str) -> str:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed: nothing checks docker/compose.yaml here")
    done = subprocess.run(
        [program, "-f", str(DOCKER / "compose.yaml"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_compose_file_is_valid() -> None:
    compose("config", "-q")


def test_each_profile_has_its_services() -> None:
    merged = compose("config")
    profiles: dict[str, set[str]] = {}
    for service, body in re.findall(r"^  (\w+):\n((?:    .*\n)+)", merged, re.MULTILINE):
        listed = re.search(r"^    profiles:\n((?:    - \w+\n)+)", body, re.MULTILINE)
        for profile in re.findall(r"\w+", listed[1]) if listed else []:
            profiles.setdefault(profile, set()).add(service)
    assert profiles == {
        "single": {"nats"},
        "cluster": {"node1", "node2", "node3"},
        "secure": {"certs", "secure", "operator", "registrar", "reader"},
        "demo": {"nats", "checkout", "prices", "search", "watch"},
        "test": {"nats", "test"},
    }


def test_images_are_pinned_and_nobody_is_root() -> None:
    for dockerfile in DOCKER.rglob("Dockerfile"):
        stages = set()
        user = "root"
        for line in dockerfile.read_text().splitlines():
            if found := re.fullmatch(r"FROM (\S+)(?: AS (\w+))?", line):
                pinned = found[1] in stages or re.fullmatch(r"\w+:\d+\.\d+\.\d+(-[\w.-]+)?", found[1])
                assert pinned, line
                stages.add(found[2])
            user = line.split()[1] if line.startswith("USER ") else user
        assert user != "root", dockerfile


def test_nothing_secret_is_in_the_rig() -> None:
    for file in DOCKER.rglob("*"):
        if file.is_file():
            assert file.suffix not in (".pem", ".key", ".nk", ".creds"), file
            assert not re.search(r"password: *\S|PRIVATE KEY|\bS[UAO][A-Z2-7]{50}", file.read_text()), file


@dataclass
class Service:
    """What compose.yaml says of one service in its own lines."""

    command: list[str]
    environment: dict[str, str]


def service_of(name: str) -> Service:
    found = re.search(rf"^  {name}:\n((?:    .*\n)+)", COMPOSE, re.MULTILINE)
    assert found is not None
    command = re.search(r"^    command: (\[.*\])$", found[1], re.MULTILINE)
    assert command is not None
    return Service(
        json.loads(command[1]), dict(re.findall(r"^      (NATS_\w+): (\S+)$", found[1], re.MULTILINE))
    )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@asynccontextmanager
async def servers(config: str, environments: Iterable[dict[str, str]]) -> AsyncIterator[None]:
    """Run a configuration of the rig with each of these environments."""
    processes = [
        await asyncio.create_subprocess_exec(
            str(server_binary(None)),
            "-c",
            str(DOCKER / "nats" / config),
            env={**os.environ, **environment},
            stderr=asyncio.subprocess.DEVNULL,
        )
        for environment in environments
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            await process.wait()


def environment(tmp_path: Path, name: str, port: int, monitor: int) -> dict[str, str]:
    return {
        "NATS_NAME": name,
        "NATS_HOST": "127.0.0.1",
        "NATS_PORT": str(port),
        "NATS_MONITOR": f"127.0.0.1:{monitor}",
        "NATS_STORE": str(tmp_path / name),
    }


async def is_healthy(monitor: int) -> None:
    """The health check of the compose file says so."""
    found = re.search(r'"(http://127\.0\.0\.1):8222(/\S*)"', COMPOSE)
    assert found is not None
    address = f"{found[1]}:{monitor}{found[2]}"

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    await eventually(lambda: asyncio.to_thread(healthy), PATIENCE)


async def works_on(urls: list[str], replicas: int) -> None:
    """Register and watch through each of these servers."""

    async def up() -> natsdisc.Discovery | None:
        try:
            discovery = await natsdisc.connect(urls, replicas=replicas)
        except natsdisc.StoreUnavailableError:
            return None
        try:
            await discovery.register(SPEC)
        except natsdisc.DiscoveryError:
            await discovery.close()
            return None
        return discovery

    discovery: natsdisc.Discovery = await eventually(up, timeout=60)
    async with discovery:
        for url in urls:
            async with natsdisc.connect(url) as other, other.list_and_watch(endpoints()) as events:
                assert await anext(events) == Added(discovery.registrations[0].instance)


async def test_the_single_server(tmp_path: Path) -> None:
    port, monitor = free_ports(2)
    async with servers("single.conf", [environment(tmp_path, "one", port, monitor)]):
        await is_healthy(monitor)
        await works_on([f"nats://127.0.0.1:{port}"], replicas=1)


async def test_the_cluster(tmp_path: Path) -> None:
    ports = free_ports(9)
    routes = {f"NATS_ROUTE_{n}": f"nats://127.0.0.1:{port}" for n, port in enumerate(ports[6:], 1)}
    nodes = [
        {
            **environment(tmp_path, f"node{n}", ports[n - 1], ports[n + 2]),
            **routes,
            "NATS_CLUSTER_LISTEN": f"127.0.0.1:{ports[n + 5]}",
        }
        for n in (1, 2, 3)
    ]
    async with servers("cluster.conf", nodes):
        for monitor in ports[3:6]:
            await is_healthy(monitor)
        await works_on([f"nats://127.0.0.1:{port}" for port in ports[:3]], replicas=3)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_configurations_name_no_variable_that_compose_does_not_set(config: str) -> None:
    assert {file.name for file in (DOCKER / "nats").glob("*.conf")} == set(CONFIGS)
    for variable in re.findall(r"\$(NATS_\w+)", (DOCKER / "nats" / config).read_text()):
        assert f"{variable}: " in COMPOSE


async def started(shell: Shell, service: Service, **options: Any) -> Process:
    return await shell.start(*service.command, env={**shell.environment, **service.environment}, **options)


async def test_the_services_of_the_demo(tmp_path: Path, shell: Shell) -> None:
    port, monitor = free_ports(2)
    url = f"nats://127.0.0.1:{port}"
    async with servers("single.conf", [environment(tmp_path, "one", port, monitor)]):
        await is_healthy(monitor)
        services = {name: service_of(name) for name in ("watch", "checkout", "prices", "search")}
        for service in services.values():
            service.environment["NATS_URL"] = url
            service.command = [DIFFERENT.get(word, word) for word in service.command]
        checkout = services["checkout"]
        checkout.command = [word.replace("nats://nats:4222", url) for word in checkout.command]
        watching = await started(shell, services["watch"])
        for name in ("prices", "search"):
            # Their own names lead nowhere here, so they cannot be seen to listen.
            services[name].command.insert(services[name].command.index("--"), "--ready-timeout=0")
            await started(shell, services[name])
        await started(shell, checkout, command=[sys.executable], cwd=DOCKER.parent)
        seen = {(await line_of(watching.stdout)).split()[2] for _ in range(3)}
        assert {path.rpartition("/")[0] for path in seen} == {
            "shop/cart/checkout",
            "shop/catalog/prices",
            "shop/catalog/search",
        }
        for process in shell.processes:
            process.terminate()  # their programs end with them
        for process in shell.processes:
            await ended(process)


ROLES = {
    "operator": ["--role", "operator"],
    "reader": ["--role", "reader"],
    "shop-reader": ["--role", "reader", "--namespace", "shop"],
    "shop-registrar": ["--role", "registrar", "--namespace", "shop"],
    "cart-registrar": ["--role", "registrar", "--namespace", "shop", "--component", "cart"],
    "acme": ["--role", "registrar", "--bucket-prefix", "acme"],
    "globex": ["--role", "registrar", "--bucket-prefix", "globex"],
    # Of the account that imports the registry.
    "app-reader": ["--role", "reader", "--api-prefix", "REGISTRY.API"],
    "app-shop-registrar": ["--role", "registrar", "--namespace", "shop", "--api-prefix", "REGISTRY.API"],
}


def test_the_roles_of_the_secure_server_are_what_acl_prints() -> None:
    """To renew one: natsdisc acl --role … --user NAME > docker/nats/roles/NAME.conf"""
    assert {file.stem for file in (DOCKER / "nats" / "roles").iterdir()} == set(ROLES)
    for name, arguments in ROLES.items():
        command = [*COMMAND, "acl", *arguments, "--user", name.removeprefix("app-")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert (DOCKER / "nats" / "roles" / f"{name}.conf").read_text() == done.stdout, name


@dataclass
class Secure:
    """The server of the profile `secure`, and everybody's certificates."""

    url: str
    certs: Path

    def connect(self, user: str | None, **options: Any) -> natsdisc.Connecting:
        """As the user with this certificate, or without any."""
        tls = ssl.create_default_context(cafile=self.certs / "ca.pem")
        tls.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 does by itself
        if user is not None:
            tls.load_cert_chain(self.certs / f"{user}.pem", self.certs / f"{user}.key")
        if user in ROLES:
            options.setdefault("inbox_prefix", inbox_prefix_of(user))
        return natsdisc.connect(self.url, tls=tls, **options)

    @asynccontextmanager
    async def client(self, user: str) -> AsyncIterator[nats.NATS]:
        """A plain NATS client as this user."""
        tls = ssl.create_default_context(cafile=self.certs / "ca.pem")
        tls.load_cert_chain(self.certs / f"{user}.pem", self.certs / f"{user}.key")
        client = await nats.connect(self.url, tls=tls)
        try:
            yield client
        finally:
            await client.close()

    def service(self, name: str) -> Service:
        """A service of the compose file, with what differs here put right."""
        service = service_of(name)
        for variable, value in service.environment.items():
            service.environment[variable] = value.replace("/certs/", f"{self.certs}/")
        service.environment["NATS_URL"] = self.url
        return service


def make_certificates(folder: Path) -> None:
    folder.mkdir()
    subprocess.run(["sh", str(DOCKER / "certs" / "make.sh"), str(folder)], check=True, capture_output=True)


@asynccontextmanager
async def running(config: str, tmp_path: Path) -> AsyncIterator[Secure]:
    """Run a configuration of the profile `secure` with new certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: nothing makes the certificates of the secure server")
    certs = tmp_path / "certs"
    make_certificates(certs)
    port, monitor = free_ports(2)
    files = {
        variable: value.replace("/certs/", f"{certs}/")
        for variable, value in re.findall(r"(NATS_TLS_\w+): (\S+)", COMPOSE)
    }
    async with servers(config, [{**environment(tmp_path, "secure", port, monitor), **files}]):
        await is_healthy(monitor)
        yield Secure(f"tls://127.0.0.1:{port}", certs)


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    async with running("secure.conf", tmp_path) as secure:
        yield secure


def test_each_container_of_the_secure_profile_sees_its_own_key_only(tmp_path: Path) -> None:
    """What a volume holds is what the certificates' service puts into the folder where it is mounted."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    merged = compose("config")
    mounts: dict[str, dict[str, str]] = {}
    for service, body in re.findall(r"^  ([\w-]+):\n((?:    .*\n)+)", merged, re.MULTILINE):
        found = re.findall(r"^    - ([\w-]+):(/certs[\w/-]*)(?::\w+)?$", body, re.MULTILINE)
        if found:
            mounts[service] = dict(found)
    folders = mounts.pop("certs")
    assert {service: list(volumes.values()) for service, volumes in mounts.items()} == {
        "secure": ["/certs"],
        "operator": ["/certs"],
        "registrar": ["/certs"],
        "reader": ["/certs"],
    }
    volumes = [next(iter(volumes)) for volumes in mounts.values()]
    assert len(set(volumes)) == len(volumes)
    names = {volume: Path(folders[volume]).name for volume in volumes}
    certs = tmp_path / "certs"
    for name in names.values():
        (certs / name).mkdir(parents=True)
    subprocess.run(["sh", str(DOCKER / "certs" / "make.sh"), str(certs)], check=True, capture_output=True)
    for name in names.values():
        assert {file.name for file in (certs / name).iterdir()} == {"ca.pem", f"{name}.pem", f"{name}.key"}
        assert not (certs / f"{name}.key").exists()
    for service, own in zip(mounts, names.values(), strict=True):
        if service != "secure":
            assert service_of(service).environment["NATS_KEY"] == f"/certs/{own}.key"


def test_monitoring_is_out_of_reach_of_other_containers() -> None:
    merged = compose("config")
    monitors = re.findall(r"NATS_MONITOR: (\S+)", merged)
    assert monitors
    assert set(monitors) == {"127.0.0.1:8222"}
    assert "8222:" not in "".join(re.findall(r"^    ports:\n((?:    - .*\n)+)", merged, re.MULTILINE))


def test_python_packages_of_the_images_are_pinned() -> None:
    pins = [
        line for line in (DOCKER / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins), pins
    names = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
    assert {"nats-py", "orjson", "click", "rich", "nkeys", "hatchling", "pytest"} <= names
    dockerfile = (DOCKER / "Dockerfile").read_text()
    for stage in dockerfile.split("FROM ")[1:]:
        if "pip " in stage and not stage.startswith("service AS"):
            assert "PIP_CONSTRAINT=/constraints.txt" in stage.partition("pip ")[0], stage


def test_certificates_are_kept_and_the_authority_is_not(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    make_certificates(tmp_path / "certs")
    files = {file: file.read_bytes() for file in (tmp_path / "certs").iterdir()}
    assert not (tmp_path / "certs" / "ca.key").exists()
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    subprocess.run(["sh", str(DOCKER / "certs" / "make.sh"), str(tmp_path / "certs")], check=True)
    assert {file: file.read_bytes() for file in (tmp_path / "certs").iterdir()} == files


async def test_the_services_of_the_secure_server(secure: Secure, shell: Shell) -> None:
    """The operator makes the buckets, the registrar registers, the reader sees it."""
    operator = await shell.run(
        *secure.service("operator").command,
        env={**shell.environment, **secure.service("operator").environment},
    )
    assert (operator.code, "broken" in operator.out) == (0, False), operator
    watching = await started(shell, secure.service("reader"))
    registrar = await started(shell, secure.service("registrar"))
    path = await line_of(registrar.stdout)
    assert path.startswith("shop/cart/checkout/")
    assert f"added    {path}" in await line_of(watching.stdout)
    registrar.terminate()
    assert await registrar.wait() == 0
    assert "draining" in await line_of(watching.stdout)
    assert f"removed  {path}  unregistered" in await line_of(watching.stdout)
    await shell.close()


async def test_each_role_of_the_secure_server_does_its_work_and_no_other(secure: Secure) -> None:
    def at(namespace: str, component: str) -> EndpointSpec:
        return EndpointSpec(namespace, component, "ep", transport=Transport.nats("addr"))

    async with secure.connect("operator") as operator, secure.connect("reader") as reader:
        everywhere = [await operator.register(at(*place)) for place in (("other", "c"), ("shop", "cart"))]
        assert await reader.list(endpoints()) == everywhere
        with pytest.raises(PermissionDeniedError):
            await reader.register(at("shop", "cart"))
        with pytest.raises(PermissionDeniedError):
            await reader.unregister(everywhere[0])

        async with secure.connect("shop-reader") as confined:
            assert await confined.list(endpoints("shop")) == everywhere[1:]
            for query in (endpoints(), endpoints("other")):
                with pytest.raises(PermissionDeniedError):
                    await confined.list(query)

        for user, mine, theirs in (
            ("shop-registrar", ("shop", "any"), ("other", "c")),
            ("cart-registrar", ("shop", "cart"), ("shop", "any")),
        ):
            async with secure.connect(user) as registrar, asyncio.timeout(PATIENCE):
                instance = await registrar.register(at(*mine))
                assert instance in await reader.list(endpoints(*mine))
                for refused in (theirs, ("other", "c")):
                    for ttl in (10.0, None):
                        with pytest.raises(PermissionDeniedError):
                            await registrar.register(at(*refused), lease_ttl=ttl)
            assert instance not in await reader.list(endpoints())

        async with secure.connect("lab") as lab:
            assert await lab.list(endpoints()) == []
            elsewhere = await lab.register(at("shop", "cart"))
            assert await lab.list(endpoints()) == [elsewhere]
            assert await reader.list(endpoints()) == everywhere
        assert operator.stats().fence_failures == 0


async def test_the_secure_server_takes_nobody_it_does_not_know(secure: Secure, tmp_path: Path) -> None:
    strangers = tmp_path / "strangers"
    make_certificates(strangers)
    shutil.copy(secure.certs / "ca.pem", strangers / "ca.pem")
    with pytest.raises(natsdisc.StoreUnavailableError, match="certificate"):
        await secure.connect(None)
    with pytest.raises(natsdisc.DiscoveryError):
        await Secure(secure.url, strangers).connect("operator")


async def test_the_registry_in_an_account_of_its_own(tmp_path: Path) -> None:
    """Through imports everything works, flow control of a large list included; nothing else comes through."""
    async with (
        running("imports.conf", tmp_path) as rig,
        rig.connect("operator", lease_ttl=None) as operator,
        rig.connect("shop-registrar", lease_ttl=2.0, api_prefix="REGISTRY.API") as registrar,
        rig.connect("reader", api_prefix="REGISTRY.API") as reader,
    ):
        await operator.register(EndpointSpec("other", "c", "e", transport=Transport.nats("x")))
        filler = "x" * 60_000
        for number in range(100):
            spec = EndpointSpec(
                "big", "c", f"e{number}", transport=Transport.nats("x"), metadata={"f": filler}
            )
            await operator.register(spec)
        assert len(await reader.list(endpoints())) == 101
        async with reader.list_and_watch(endpoints("shop")) as events, asyncio.timeout(PATIENCE):
            await events.synced()
            mine = await registrar.register(EndpointSpec("shop", "cart", "e", transport=Transport.nats("x")))
            assert await anext(events) == Added(mine)
            before = registrar.stats().heartbeats
            await eventually(lambda: registrar.stats().heartbeats >= before + 3, PATIENCE)
            assert registrar.stats().fence_failures == 0
            await registrar.unregister(mine)
            assert isinstance(await anext(events), natsdisc.Removed)
        with pytest.raises(PermissionDeniedError):
            await registrar.register(EndpointSpec("other", "c", "e", transport=Transport.nats("x")))
        # A user of the services' account without any restriction can list, and has no stream to make.
        async with rig.client("lab") as lab:
            answer = await lab.request("REGISTRY.API.STREAM.INFO.KV_v1_instances", timeout=5)
            assert json.loads(answer.data)["config"]["name"] == "KV_v1_instances"
            for subject in (
                "REGISTRY.API.STREAM.CREATE.KV_evil",
                "REGISTRY.API.STREAM.DELETE.KV_v1_instances",
            ):
                with pytest.raises((nats.errors.NoRespondersError, nats.errors.TimeoutError)):
                    await lab.request(subject, b'{"name": "KV_evil", "subjects": ["evil"]}', timeout=1)
            # A consumer reaches the inboxes that are imported, and no other listener.
            heard: list[str] = []
            arrived = asyncio.Event()

            async def listen(message: Msg) -> None:
                heard.append(message.subject)

            async def note(_: Msg) -> None:
                arrived.set()

            await lab.subscribe("orders.new", cb=listen)
            await lab.subscribe("_INBOX_reader.x", cb=note)
            await lab.flush()
            everything = "$KV.v1_instances.other.>"
            for name, target in (("evil", "orders.new"), ("good", "_INBOX_reader.x")):
                settings = {"name": name, "deliver_subject": target, "ack_policy": "none"}
                body = {
                    "stream_name": "KV_v1_instances",
                    "config": {**settings, "filter_subject": everything},
                }
                question = f"REGISTRY.API.CONSUMER.CREATE.KV_v1_instances.{name}.{everything}"
                answer = await lab.request(question, json.dumps(body).encode(), timeout=5)
                assert "error" not in json.loads(answer.data), answer.data
            async with asyncio.timeout(PATIENCE):
                await arrived.wait()
            assert heard == []
            # An answer that is sent to a key does not come through.
            question, target = (
                "REGISTRY.API.CONSUMER.INFO.KV_v1_instances.none",
                "$KV.v1_instances.other.c.e.9",
            )
            await lab.publish(question, b"", reply=target)
            await lab.request(question, timeout=5)
            look = "REGISTRY.API.STREAM.MSG.GET.KV_v1_instances"
            answer = await lab.request(look, json.dumps({"last_by_subj": target}).encode(), timeout=5)
            assert json.loads(answer.data)["error"]["err_code"] == 10037  # no message found


async def test_a_prefix_for_each_tenant(tmp_path: Path) -> None:
    async with running("tenants.conf", tmp_path) as rig:
        for tenant in ("acme", "globex"):
            async with rig.connect("operator", bucket_prefix=tenant, lease_ttl=2.0) as operator:
                await operator.register(SPEC)
        async with (
            rig.connect("acme", bucket_prefix="acme") as acme,
            rig.connect("globex", bucket_prefix="globex") as globex,
        ):
            mine = await acme.register(EndpointSpec("shop", "cart", "e", transport=Transport.nats("x")))
            assert await acme.list(endpoints("shop")) == [mine]
            assert await globex.list(endpoints("shop")) == []
            for prefix, other in (("acme", "globex"), ("globex", "acme")):
                async with rig.connect(prefix, bucket_prefix=other) as stranger:
                    with pytest.raises(PermissionDeniedError):
                        await stranger.list(endpoints())
                    with pytest.raises(PermissionDeniedError):
                        await stranger.register(SPEC)


def test_the_suite_runs_against_a_server_by_its_url(nats_url: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "tests/contract/test_discovery.py"),
            *("-k", "register_endpoint or list_by_all", "--nats-url", nats_url),
        ],
        cwd=DOCKER.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
