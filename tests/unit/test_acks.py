"""Answers to what was published to a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from natsdisc.errors import StoreUnavailableError
from natsdisc.store.jetstream.api import JetStreamApi, PendingAck
from natsdisc.store.jetstream.requester import Requester

VALUE, LEASE = "$KV.v1_instances.ns.comp.ep.1", "$NATSDISC.LEASE.v1_instances.ns.comp.ep.1"


class Answered:
    """A message that was answered."""

    def __init__(self, subject: str, answer: dict[str, Any]) -> None:
        self.subject = subject
        self._message = Msg(Client(), data=json.dumps(answer).encode())

    async def answer(self, timeout: float) -> Msg:
        return self._message


@pytest.mark.parametrize("subject", [VALUE, LEASE])
async def test_an_answer_of_the_subjects_stream_is_believed(subject: str) -> None:
    answered: Any = Answered(subject, {"stream": "KV_v1_instances", "seq": 7})
    ack = PendingAck(JetStreamApi(Requester(Client())), answered)
    assert await ack.sequence(1) == 7


@pytest.mark.parametrize("stream", ["KV_v1_mdc", "v1_instances", "", None, 3, ["KV_v1_instances"]])
@pytest.mark.parametrize("subject", [VALUE, LEASE])
async def test_an_answer_of_another_stream_is_none(subject: str, stream: object) -> None:
    """Somebody who sees a message can answer it too: with an answer that was given to somebody else."""
    answered: Any = Answered(subject, {"stream": stream, "seq": 7})
    ack = PendingAck(JetStreamApi(Requester(Client())), answered)
    with pytest.raises(StoreUnavailableError, match="and not from KV_v1_instances"):
        await ack.sequence(1)
