"""The tree of errors."""

from __future__ import annotations

import pytest

from natsdisc import errors
from natsdisc.errors import AlreadyRegisteredError, DiscoveryError


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_below_one_root(name: str) -> None:
    assert issubclass(getattr(errors, name), DiscoveryError)
    assert name.endswith("Error")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("InvalidNameError", ValueError),
        ("InvalidIdError", ValueError),
        ("InvalidQueryError", ValueError),
        ("InvalidValueError", ValueError),
        ("PayloadTooLargeError", ValueError),
        ("PermissionDeniedError", PermissionError),
        ("StoreUnavailableError", ConnectionError),
        ("NoInstanceError", LookupError),
    ],
)
def test_an_error_of_a_standard_kind_derives_from_it_too(name: str, kind: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), kind)


def test_already_registered_holds_what_is_there() -> None:
    there = object()
    assert AlreadyRegisteredError("taken", there).existing is there
    assert AlreadyRegisteredError("taken").existing is None
    assert str(AlreadyRegisteredError("taken", there)) == "taken"
