"""A Flask service under gunicorn: every worker registers, and leaves before it stops.

NATS_URL=nats://127.0.0.1:4222 ADDRESS=http://127.0.0.1:8000 \
    gunicorn -w 2 -b 127.0.0.1:8000 -c python:flask_service flask_service:app
"""

from __future__ import annotations

import os

from flask import Flask

import natsdisc.sync
from natsdisc import EndpointSpec, Transport

ADDRESS = os.environ["ADDRESS"]
DRAIN = 1.0  # longer than clients take to hear of the mark and to finish what they sent before

app = Flask(__name__)
# With gunicorn's --preload this is made in the master: each worker then gets a connection of its own.
discovery = natsdisc.sync.connect(wait=60)


@app.get("/order/<int:number>")
def order(number: int) -> dict[str, int]:
    return {"paid": number, "by": os.getpid()}


def post_worker_init(worker: object) -> None:
    """Gunicorn calls this in each worker, when its socket listens and its signal handlers are set."""
    discovery.register(EndpointSpec("shop", "cart", "flask", transport=Transport.http(ADDRESS)))
    discovery.close_on_signal(drain=DRAIN)
