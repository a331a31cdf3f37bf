"""What the messages of a bucket say, and what must not be believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsdisc.model import RemovalReason
from natsdisc.store.jetstream.messages import (
    EXPECTED_SEQUENCE,
    FORGED,
    MARKER,
    OPERATION,
    REASON,
    SCHEDULE_NEXT,
    SCHEDULER,
    SIGNATURE,
    TTL,
    Forged,
    headers_that_matter,
    parse_headers,
    removal,
)

OWN = "$NATSDISC.LEASE.v1_instances.ns.c.e.1"
OTHER = "$NATSDISC.LEASE.v1_instances.ns.c.e.10"
UNREGISTERED, EXPIRED = RemovalReason.UNREGISTERED, RemovalReason.EXPIRED


@pytest.mark.parametrize(
    ("headers", "meaning"),
    [
        # values
        ({}, None),
        ({TTL: "5s", EXPECTED_SEQUENCE: "0"}, None),
        ({OPERATION: "PUT"}, None),
        ({OPERATION: "del"}, None),
        ({OPERATION: ""}, None),
        ({REASON: "unregistered"}, None),
        # what any KV client writes
        ({OPERATION: "DEL"}, UNREGISTERED),
        ({OPERATION: "PURGE"}, UNREGISTERED),
        ({OPERATION: "PURGE", "Nats-Rollup": "sub"}, UNREGISTERED),
        ({OPERATION: "DEL", REASON: "expired"}, UNREGISTERED),
        # the server's markers
        ({MARKER: "MaxAge"}, EXPIRED),
        ({MARKER: "Purge"}, UNREGISTERED),
        ({MARKER: "Remove"}, UNREGISTERED),
        ({MARKER: "Something new"}, UNREGISTERED),
        # the key's own lease
        ({OPERATION: "DEL", SCHEDULER: OWN}, EXPIRED),
        ({OPERATION: "DEL", SCHEDULER: OWN, SCHEDULE_NEXT: "purge"}, EXPIRED),
        ({OPERATION: "DEL", SCHEDULER: OWN, REASON: "unregistered"}, UNREGISTERED),
        ({OPERATION: "DEL", SCHEDULER: OWN, REASON: "something"}, EXPIRED),
        # forgeries: another key's lease, or more than a lease's delete
        ({OPERATION: "DEL", SCHEDULER: OTHER}, FORGED),
        ({OPERATION: "DEL", SCHEDULER: OTHER, REASON: "unregistered"}, FORGED),
        ({OPERATION: "DEL", SCHEDULER: OWN.lower()}, FORGED),
        ({OPERATION: "DEL", SCHEDULER: OWN + " "}, FORGED),
        ({OPERATION: "DEL", SCHEDULER: ""}, FORGED),
        ({SCHEDULER: OWN}, FORGED),
        ({SCHEDULER: OTHER}, FORGED),
        ({OPERATION: "PURGE", SCHEDULER: OWN}, FORGED),
        ({OPERATION: "PUT", SCHEDULER: OWN}, FORGED),
        ({SCHEDULER: OWN, REASON: "unregistered"}, FORGED),
        ({MARKER: "MaxAge", SCHEDULER: OWN}, FORGED),
        ({MARKER: "MaxAge", SCHEDULER: OTHER}, FORGED),
        ({MARKER: "MaxAge", OPERATION: "PURGE", SCHEDULER: OTHER}, FORGED),
    ],
    ids=str,
)
def test_what_headers_mean(headers: dict[str, str], meaning: RemovalReason | Forged | None) -> None:
    assert removal(headers, OWN) is meaning


@given(
    headers=st.dictionaries(
        st.sampled_from([OPERATION, SCHEDULER, MARKER, REASON, TTL]),
        st.sampled_from(["DEL", "PURGE", "PUT", "MaxAge", "Remove", "unregistered", OWN, OTHER, ""])
        | st.text(),
    )
)
def test_a_stamped_message_counts_only_as_its_own_leases_delete(headers: dict[str, str]) -> None:
    meaning = removal(headers, OWN)
    believed = headers.get(SCHEDULER) == OWN and headers.get(OPERATION) == "DEL"
    assert (meaning is FORGED) == (SCHEDULER in headers and not believed)
    if believed:
        assert isinstance(meaning, RemovalReason)


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"", {}),
        (b"NATS/1.0\r\n\r\n", {}),
        (b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n", {"KV-Operation": "DEL"}),
        (b"NATS/1.0\r\nA:1\r\nB:  2 \r\n\r\n", {"A": "1", "B": "2"}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nA: 1\r\n\r\n",
            {"A": "1", "Status": "100", "Description": "Idle Heartbeat"},
        ),
        (
            b"NATS/1.0\r\nNats-Schedule: @at 2024-01-01T00:00:00Z\r\n\r\n",
            {"Nats-Schedule": "@at 2024-01-01T00:00:00Z"},
        ),
        (b"NATS/1.0\r\nEmpty:\r\nNo colon\r\n\r\n", {"Empty": ""}),
        (b"NATS/1.0\r\nA: \xc3\xa9\xff\r\n\r\n", {"A": "é\ufffd"}),
    ],
    ids=repr,
)
def test_a_header_block(block: bytes, headers: dict[str, str]) -> None:
    assert parse_headers(block) == headers


@given(
    headers=st.dictionaries(
        st.from_regex(r"[A-Za-z][-A-Za-z]{0,10}", fullmatch=True),
        # A block that mentions the stamp is read in another way, which has tests of its own.
        st.text(st.characters(min_codepoint=33, exclude_categories=["Cs", "Cc", "Z"])).filter(
            lambda value: SCHEDULER not in value
        ),
    )
)
def test_what_was_written_is_read(headers: dict[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    assert parse_headers(f"NATS/1.0\r\n{lines}\r\n".encode()) == headers


@given(block=st.binary())
def test_any_bytes_can_be_read(block: bytes) -> None:
    parse_headers(block)


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        ("A: 1\r\nNatsdisc-Leased: 10\r\n", None),
        ("A: 1\r\nNatsdisc-Signature: 1 a b\r\nB: 2\r\n", {SIGNATURE: "1 a b"}),
        ("Natsdisc-Signature: x\r\nNatsdisc-Signature: y\r\n", {SIGNATURE: "x"}),
        ("XNatsdisc-Signature: x\r\n", None),
        ("A: Natsdisc-Signature: x\r\n", None),
        ("Natsdisc-Signature: x\r\nKV-Operation: DEL\r\n", {SIGNATURE: "x", OPERATION: "DEL"}),
        (f"Natsdisc-Signature: x\r\nNats-Scheduler: {OTHER}\r\n", {SIGNATURE: "x", SCHEDULER: OTHER}),
    ],
)
def test_a_reader_looks_at_the_signature(lines: str, headers: dict[str, str] | None) -> None:
    assert headers_that_matter(f"NATS/1.0\r\n{lines}\r\n".encode()) == headers


@given(signature=st.binary())
def test_any_signature_can_be_read(signature: bytes) -> None:
    block = b"NATS/1.0\r\nNatsdisc-Signature: " + signature
    assert (headers_that_matter(block) or {}).get(SIGNATURE) is not None
