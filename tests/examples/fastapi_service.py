"""The same with FastAPI, or Starlette, under uvicorn: every worker process registers itself.

NATS_URL=nats://127.0.0.1:4222 ADDRESS=http://127.0.0.1:8000 uvicorn --port 8000 fastapi_service:app
"""

from __future__ import annotations

import os

from fastapi import FastAPI

from natsdisc import EndpointSpec, Transport
from natsdisc.integrations.starlette import DiscoveryLifespan

CART = EndpointSpec("shop", "cart", "fastapi", transport=Transport.http(os.environ["ADDRESS"]))

lifespan = DiscoveryLifespan(CART, drain=1.0)
app = FastAPI(lifespan=lifespan)
app.add_route("/ready", lifespan.ready)


@app.get("/order/{number}")
async def order(number: int) -> dict[str, int]:
    return {"paid": number, "by": os.getpid()}
