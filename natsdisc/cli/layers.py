"""The settings of a connection: given as options, in a context, and in the environment."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LOGIN", "SETTINGS", "WHERE", "layered"]

# The settings that say whose JetStream it is.
WHERE = ("domain", "api_prefix")
SETTINGS = ("url", "creds", "nkey", "user", "password", "token", "cert", "key", "ca", "inbox_prefix", *WHERE)
# Each setting of a login, and the way to log in that it belongs to.
LOGIN = {"creds": "creds", "nkey": "nkey", "user": "user", "password": "user", "token": "token"}


def layered(*layers: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of all layers, where an earlier one wins: options, a context, the environment.

    Ways to log in exclude each other: one that is given hides the others of the layers below. So do the two
    ways to say whose JetStream it is.
    """
    settings: dict[str, str] = {}
    for layer in layers:
        logins = {LOGIN[name] for name in settings if name in LOGIN}
        is_told_where = any(name in settings for name in WHERE)
        for name, value in layer.items():
            if name in settings or (name in WHERE and is_told_where):
                continue
            if not logins or LOGIN.get(name) in {None, *logins}:
                settings[name] = value
    return settings
