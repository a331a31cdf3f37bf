"""The rules that bound what an old signed value can do, one test each."""

from __future__ import annotations

import pytest

from natsdisc.replay import CLOCK_TOLERANCE, History
from natsdisc.signing import Signature, UntrustedError

KEY = "shop.cart.checkout.1"
NOW = 100_000.0


def signed(at: float, owner: str = "a", until: float = 0.0) -> Signature:
    return Signature(owner, int(at * 1000), int(until * 1000), "U", b"")


def test_a_signature_ends() -> None:
    history = History()
    history.put(KEY, signed(1, until=NOW), NOW + CLOCK_TOLERANCE)
    assert history.ended(NOW + CLOCK_TOLERANCE) == []
    assert history.ended(NOW + CLOCK_TOLERANCE + 1) == [KEY]
    assert history.ended(NOW + CLOCK_TOLERANCE + 1) == []
    with pytest.raises(UntrustedError, match="ended 61 s ago"):
        History().put(KEY, signed(1, until=NOW), NOW + CLOCK_TOLERANCE + 1)


def test_a_signature_of_a_registration_without_a_lease_does_not_end() -> None:
    history = History()
    history.put(KEY, signed(1), NOW)
    assert history.ended(NOW * 1000) == []


def test_an_older_value_of_the_same_owner_is_a_replay() -> None:
    history = History()
    history.put(KEY, signed(10), NOW)
    history.put(KEY, signed(10), NOW)  # the next snapshot
    history.put(KEY, signed(11), NOW)
    with pytest.raises(UntrustedError, match="replay"):
        history.put(KEY, signed(10), NOW)
    history.put(KEY, signed(12), NOW)


def test_the_last_value_does_not_come_back_after_its_removal() -> None:
    history = History()
    history.put(KEY, signed(10), NOW)
    history.delete(KEY)
    history.delete(KEY)
    with pytest.raises(UntrustedError, match="replay"):
        history.put(KEY, signed(10), NOW)
    history.put(KEY, signed(10.001), NOW)  # the owner is back
    history.put(KEY, signed(10.001), NOW)


def test_owners_compare_within_the_tolerance_of_clocks() -> None:
    history = History()
    history.put(KEY, signed(1_000), NOW)
    history.put(KEY, signed(1_000 - CLOCK_TOLERANCE, "b"), NOW)
    # Step by step nobody goes further back.
    with pytest.raises(UntrustedError, match="replay"):
        history.put(KEY, signed(999 - CLOCK_TOLERANCE, "c"), NOW)
    history.delete(KEY)
    with pytest.raises(UntrustedError, match="replay"):
        history.put(KEY, signed(999 - CLOCK_TOLERANCE, "c"), NOW)
    history.put(KEY, signed(2_000, "c"), NOW)


def test_removed_keys_are_remembered_within_a_bound() -> None:
    history = History()
    for number in range(10_002):
        history.put(f"k{number}", signed(10), NOW)
        history.delete(f"k{number}")
    assert len(history._gone) == 10_000
    history.put("k0", signed(10), NOW)
    with pytest.raises(UntrustedError):
        history.put("k10001", signed(10), NOW)


def test_an_unknown_key_is_believed_and_its_removal_means_nothing() -> None:
    history = History()
    history.delete(KEY)
    history.put(KEY, signed(10), NOW)
