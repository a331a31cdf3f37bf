"""Which messages of the lease space are leases, and until when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from natsdisc.store.jetstream.ghosts import lease_time
from natsdisc.store.jetstream.marks import is_mark


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("@at 2026-11-25T20:56:54.798818Z", datetime(2026, 11, 25, 20, 56, 54, 798818, UTC)),
        ("@at 2026-11-25T22:56:54+02:00", datetime(2026, 11, 25, 20, 56, 54, 0, UTC)),
        ("@at 2026-11-25T20:56:54", None),  # without a zone
        ("@at soon", None),
        ("@every 1s", None),
        ("0 30 14 * * *", None),
        ("", None),
    ],
)
def test_a_lease_says_when_it_fires(schedule: str, expected: datetime | None) -> None:
    assert lease_time({"Nats-Schedule": schedule}) == expected


def test_another_message_is_no_lease() -> None:
    assert lease_time({}) is None


@pytest.mark.parametrize("mark", ["sweep", "ns.comp.sweep"])
def test_marks(mark: str) -> None:
    assert is_mark(mark)


@pytest.mark.parametrize(
    "key", ["ns.comp.ep.1f", "ns.comp.ep.1f.sweep", "sweep.sweep.sweep.1f", "ns.comp.sweep.1"]
)
def test_keys_are_no_marks(key: str) -> None:
    assert not is_mark(key)
