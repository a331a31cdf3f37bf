"""The old place of the pytest plugin, for installations whose entry point still names it: install again."""

from pytest_natsdisc import *  # noqa: F403 (fixtures are found by their names)
from pytest_natsdisc import pytest_configure as pytest_configure
