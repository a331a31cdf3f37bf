"""The options that say where the registry is, and who we are there."""

from __future__ import annotations

import functools
import importlib.util
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click
from click.core import ParameterSource

import natsdisc
from natsdisc import Discovery
from natsdisc.safe import without_credentials
from natsdisc.store.jetstream.subjects import Subjects

from .context import context_names, load_context, selected_context
from .credentials import hide, read_secret, split_url
from .keys import signing_options
from .layers import LOGIN, SETTINGS, WHERE, layered
from .progress import progress
from .waiting import Tell, Waiting

__all__ = ["Connection", "connection_of", "connection_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_DEFAULT_URL = "nats://127.0.0.1:4222"
_FILE = click.Path(exists=True, dir_okay=False)


def _option(*names: str, nats: str | None = None, help: str, **settings: Any) -> Callable[[_F], _F]:
    """Return a connection's option. Its variables are NATSDISC_ and its name, and the one of NATS tools."""
    variable = f"NATSDISC_{names[0].removeprefix('--').replace('-', '_').upper()}"
    return click.option(
        *names,
        envvar=[variable] if nats is None else [variable, nats],
        show_envvar=True,
        help=help,
        **settings,
    )


# The parameters are named like the keys of a context, so that both can be laid over each other.
_OPTIONS: tuple[Callable[[_F], _F], ...] = (
    _option(
        "--server",
        "-s",
        "url",
        nats="NATS_URL",
        metavar="URL[,URL...]",
        help=f"The NATS servers; without any, {_DEFAULT_URL}.",
    ),
    _option(
        "--context",
        nats="NATS_CONTEXT",
        metavar="NAME",
        shell_complete=lambda ctx, param, incomplete: context_names(incomplete),
        help="A context of the nats command. Options win over it; it wins over the environment. Without a "
        "server and a context, the one that `nats context select` chose counts.",
    ),
    _option("--creds", type=_FILE, nats="NATS_CREDS", help="A credentials file (JWT and NKey)."),
    _option("--nkey", type=_FILE, nats="NATS_NKEY", help="A file with an NKey seed."),
    _option("--user", nats="NATS_USER", help="A user name."),
    _option(
        "--password",
        nats="NATS_PASSWORD",
        help="The user's password. Everybody on this machine can read it in the list of processes: use "
        "--password-file or the variable.",
    ),
    _option(
        "--password-file",
        type=_FILE,
        nats="NATS_PASSWORD_FILE",
        help="A file whose first line is the password.",
    ),
    _option(
        "--token",
        nats="NATS_TOKEN",
        help="An authentication token. Like --password, it shows in the list of processes.",
    ),
    _option("--token-file", type=_FILE, nats="NATS_TOKEN_FILE", help="A file whose first line is the token."),
    _option("--tlscert", "cert", type=_FILE, nats="NATS_CERT", help="Our TLS certificate."),
    _option("--tlskey", "key", type=_FILE, nats="NATS_KEY", help="The certificate's private key."),
    _option(
        "--tlsca", "ca", type=_FILE, nats="NATS_CA", help="The authorities to trust, instead of the system's."
    ),
    _option(
        "--inbox-prefix",
        nats="NATS_INBOX_PREFIX",
        metavar="SUBJECT",
        help="The subject for replies, for a user that may not subscribe to _INBOX.>.",
    ),
    _option("--domain", metavar="NAME", help="The JetStream domain of the registry."),
    _option(
        "--api-prefix",
        metavar="SUBJECT",
        help="The subject under which this account imports JetStream from another one.",
    ),
    _option("--bucket-prefix", default="", help="Which of several registries on the server."),
    _option("--signer", type=_FILE, help="A file with the NKey seed that signs what is written."),
    _option(
        "--trusted",
        type=_FILE,
        help="A JSON file of the public NKeys whose entries count, by namespace; * is every namespace.",
    ),
)
_PARAMETERS = (*SETTINGS, "password_file", "token_file", "context", "bucket_prefix", "signer", "trusted")
_SECRET_FILES = {"password_file": "password", "token_file": "token"}


@dataclass(frozen=True)
class Connection:
    """Where and as whom to connect."""

    servers: str | list[str]
    bucket_prefix: str
    nats_options: Mapping[str, Any] = field(repr=False)
    signing: Mapping[str, Any] = field(default_factory=dict)
    jetstream: Mapping[str, Any] = field(default_factory=dict)
    """`domain` or `api_prefix` of `natsdisc.connect`."""

    @property
    def place(self) -> str:
        """The servers, as messages name them."""
        return without_credentials(self.servers)

    @asynccontextmanager
    async def open(self, *, tell: Tell | None = None, **options: Any) -> AsyncIterator[Discovery]:
        """Yield a Discovery with these `options` of `natsdisc.connect`.

        `tell` is called with a text when the server goes away, again while it stays away, and when it is
        back; without it the text goes to stderr. Raises what `natsdisc.connect` raises.
        """
        waiting = Waiting(self.place, tell)
        connecting = natsdisc.connect(
            self.servers,
            bucket_prefix=self.bucket_prefix,
            **self.jetstream,
            **self.signing,
            **options,
            **self.nats_options,
            **waiting.options,
        )
        async with progress(f"connecting to {self.place}"):
            discovery = await connecting
        async with discovery, waiting.during(discovery):
            yield discovery


def connection_options(command: _F) -> _F:
    """Give a command the connection's options, as one argument `connection`."""

    @functools.wraps(command)
    def with_connection(*args: Any, **others: Any) -> Any:
        for name in _PARAMETERS:
            others.pop(name)
        return command(*args, connection=connection_of(click.get_current_context()), **others)

    result: Any = with_connection
    for option in reversed(_OPTIONS):
        result = option(result)
    return result  # type: ignore[no-any-return]


def connection_of(ctx: click.Context) -> Connection:
    """Return the connection that the options of `ctx` mean. Raises click.UsageError."""
    given: dict[str, str] = {}
    environment: dict[str, str] = {}
    for name in (*SETTINGS, *_SECRET_FILES):
        value = ctx.params[name]
        if value:
            source = ctx.get_parameter_source(name)
            layer = environment if source is ParameterSource.ENVIRONMENT else given
            if name in _SECRET_FILES:
                option = f"--{name.replace('_', '-')}"
                name, value = _SECRET_FILES[name], read_secret(value, option)
                if name in layer:
                    raise click.UsageError(f"{option} and --{name} exclude each other.")
            layer[name] = value
    context = ctx.params["context"]
    if context is None and "url" not in given | environment:
        context = selected_context()
    named = load_context(context) if context is not None else {}
    settings = layered(given, named, environment)
    signing = signing_options(ctx.params["signer"], ctx.params["trusted"])
    return _connection(settings, ctx.params["bucket_prefix"] or "", signing)


def _connection(settings: Mapping[str, str], bucket_prefix: str, signing: Mapping[str, Any]) -> Connection:
    urls = [url.strip() for url in settings.get("url", _DEFAULT_URL).split(",") if url.strip()]
    if not urls:
        raise click.UsageError("--server names no server.")
    if ("creds" in settings or "nkey" in settings) and importlib.util.find_spec("nkeys") is None:
        raise click.UsageError("Credentials files and NKeys need a package: pip install nkeys")
    urls, login = _separated(urls)
    if not any(name in settings for name in LOGIN):
        settings = {**settings, **login}
    for name in ("password", "token"):
        hide(settings.get(name))
    names = {"creds": "user_credentials", "nkey": "nkeys_seed"}
    options: dict[str, Any] = {
        names.get(name, name): settings[name]
        for name in ("user", "password", "token", "creds", "nkey", "inbox_prefix")
        if name in settings
    }
    jetstream = {name: settings[name] for name in WHERE if name in settings}
    Subjects.of(jetstream.get("domain"), jetstream.get("api_prefix"))  # raises for what cannot be
    tls = _tls(settings.get("cert"), settings.get("key"), settings.get("ca"))
    if tls is not None:
        options["tls"] = tls
    return Connection(urls[0] if len(urls) == 1 else urls, bucket_prefix, options, signing, jetstream)


def _separated(urls: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the URLs without the credentials in them, and these, if all that have some have the same."""
    parts = [split_url(url) for url in urls]
    logins = {(user, password) for _, user, password in parts if user is not None}
    for user, password in logins:
        hide(user if password is None else password)
    if len(logins) > 1:
        raise click.UsageError(
            "The URLs of --server hold different credentials: use --user with --password-file, or --creds."
        )
    bare = [url for url, _, _ in parts]
    for user, password in logins:
        assert user is not None
        return bare, {"token": user} if password is None else {"user": user, "password": password}
    return bare, {}


def _tls(cert: str | None, key: str | None, ca: str | None) -> ssl.SSLContext | None:
    if key is not None and cert is None:
        raise click.UsageError("A TLS key needs its certificate (--tlscert).")
    if cert is None and ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"The TLS files cannot be used: {error}") from error
    return context
