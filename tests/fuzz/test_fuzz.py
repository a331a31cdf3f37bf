"""The properties, with as many examples as a test run has time for. `python -m tests.fuzz` takes more."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import pytest

from .properties import PROPERTIES

EXAMPLES = 60


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
def test_property(check: Callable[[], None]) -> None:
    slow = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
    hypothesis.settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=slow)(check)()
