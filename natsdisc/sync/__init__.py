"""The same Discovery, Watch and View without asyncio: for Flask, Django, Celery and scripts.

    import natsdisc.sync
    from natsdisc import endpoints

    with natsdisc.sync.connect("nats://127.0.0.1:4222") as discovery:
        discovery.list(endpoints("shop"))

Calls may come from any thread. All work is done by one event loop thread in the background.
"""

from .discovery import Discovery, connect
from .registration import Registration
from .view import View
from .watch import Watch

__all__ = ["Discovery", "Registration", "View", "Watch", "connect"]
