"""The same over plain HTTP: any server that knows its own address can be found.

python http_service.py nats://127.0.0.1:4222
"""

from __future__ import annotations

import asyncio
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import natsdisc
from natsdisc import EndpointSpec, Transport


class Checkout(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"paid: {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


async def main(url: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Checkout)  # a free port: nobody has to know it
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        async with natsdisc.connect(url) as discovery:
            address = f"http://127.0.0.1:{server.server_port}"
            await discovery.register(EndpointSpec("shop", "cart", "http", transport=Transport.http(address)))
            print(address, flush=True)
            await stop.wait()
            await discovery.close(drain=1.0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
