"""The registry as a web page (extra `ui`): `natsdisc ui`, or `create_app` below any ASGI server."""

from .app import create_app
from .guard import Access

__all__ = ["Access", "create_app"]
