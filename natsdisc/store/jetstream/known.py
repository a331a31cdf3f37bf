"""The internals of nats-py that natsdisc uses, and whether the installed version has them."""

from __future__ import annotations

from nats.aio.client import Client

__all__ = ["is_known"]

_METHODS = (
    "_attempt_reconnect",
    "_close",
    "_connect_command",
    "_flusher",
    "_ping_interval",
    "_process_connect_init",
    "_process_err",
    "_process_info",
    "_process_op_err",
    "_process_pong",
    "_read_creds_user_jwt",
    "_read_creds_user_nkey",
    "_read_loop",
    "_select_next_server",
    "_send_ping",
    "_setup_nkeys_seed_connect",
)
_ATTRIBUTES = (
    "_current_server",
    "_error_cb",
    "_flush_queue",
    "_flusher_task",
    "_max_payload",
    "_nkeys_seed",
    "_pending",
    "_pending_data_size",
    "_ping_interval_task",
    "_pings_outstanding",
    "_pongs",
    "_reading_task",
    "_reconnection_task",
    "_server_pool",
    "_status",
    "_transport",
    "_user_credentials",
)


def is_known() -> bool:
    """Return whether the installed nats-py has the internals that `OwnClient` changes."""
    attributes = vars(Client())
    return all(callable(getattr(Client, name, None)) for name in _METHODS) and all(
        name in attributes for name in _ATTRIBUTES
    )
