"""Signed registrations from the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nkeys
import pytest

import natsdisc
from natsdisc import EndpointSpec, Signer, Transport, endpoints
from natsdisc.server import NatsServer
from tests.rig import eventually
from tests.server.shell import Shell, fails

SPEC = EndpointSpec("shop", "cart", "pay", transport=Transport.nats("shop.pay"))


def write_seed(path: Path) -> Signer:
    path.write_bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) + b"\n")
    return Signer(path)


async def test_commands_sign_and_believe_what_is_signed(shell: Shell, tmp_path: Path) -> None:
    owner, operator = write_seed(tmp_path / "owner.nk"), write_seed(tmp_path / "operator.nk")
    trusted = {"shop": [owner.public_key], "*": [operator.public_key]}
    keys = tmp_path / "trusted.json"
    keys.write_text(json.dumps(trusted))
    async with (
        NatsServer() as server,
        natsdisc.connect(server.url, lease_ttl=1, signer=owner, trusted=trusted) as service,
        natsdisc.connect(server.url) as stranger,
        natsdisc.connect(server.url, trusted=trusted) as client,
    ):
        mine, theirs = await service.register(SPEC), await stranger.register(SPEC)
        place = ["--server", server.url]
        everything = await shell.run("ls", "--json", *place)
        assert everything.code == 0
        assert f"{theirs.instance_id:x}" in everything.out or str(theirs.instance_id) in everything.out
        believed = await shell.run("ls", "--json", *place, "--trusted", str(keys))
        assert believed.code == 0
        for text in (f"{theirs.instance_id:x}", str(theirs.instance_id)):
            assert text not in believed.out
        signing = ["--signer", str(tmp_path / "operator.nk"), "--trusted", str(keys)]
        drained = await shell.run("drain", str(mine.id), *place, *signing)
        assert drained.code == 0
        [held] = service.registrations
        await eventually(lambda: held.instance != mine)
        assert await client.list(endpoints()) == [held.instance]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"shop": ["no key"]}', "\\xff"])
async def test_a_file_without_keys_is_told(shell: Shell, tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    fails(await shell.run("ls", "--trusted", str(path)), 2, "--trusted")
    fails(await shell.run("ls", "--signer", str(path)), 2, "--signer", "no seed")
