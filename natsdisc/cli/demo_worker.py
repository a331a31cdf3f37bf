"""One worker process of the demo: it registers, and stays until SIGTERM or until the demo is gone."""

from __future__ import annotations

import asyncio
import sys

import click

from natsdisc import EndpointSpec, ModelSpec, Transport, connect

from .run import run_until_stopped

__all__ = ["COMPONENT", "ENDPOINT", "NAMESPACE", "demo_worker"]

NAMESPACE, COMPONENT, ENDPOINT = "demo", "llm", "generate"
# The card of a real deployment of this model, shortened.
_CARD = {
    "display_name": "Qwen/Qwen3-0.6B",
    "slug": "qwen_qwen3-0_6b",
    "context_length": 40960,
    "kv_cache_block_size": 16,
    "migration_limit": 0,
    "model_type": "Chat | Completions",
    "model_input": "Tokens",
    "runtime_config": {"total_kv_blocks": 10641, "max_num_seqs": 256, "max_num_batched_tokens": 2048},
}


@click.command("demo-worker", hidden=True)
@click.argument("url")
@click.argument("name")
@click.option("--ttl", type=float, required=True)
@click.option("--model", is_flag=True)
def demo_worker(url: str, name: str, ttl: float, model: bool) -> None:
    """Register as the instance NAME (hexadecimal) until SIGTERM, or until stdin ends."""
    run_until_stopped(_work(url, name, ttl, model))


async def _work(url: str, name: str, ttl: float, model: bool) -> None:
    place = (NAMESPACE, COMPONENT, ENDPOINT)
    async with connect(url, lease_ttl=ttl, instance_id=int(name, 16)) as discovery:
        subject = f"{NAMESPACE}.{ENDPOINT}.{name}"
        await discovery.register(EndpointSpec(*place, transport=Transport.nats(subject)))
        if model:
            await discovery.register(ModelSpec(*place, card=_CARD))
        await _stdin_end()


async def _stdin_end() -> None:
    """Return when the process that holds the other end has ended, however it did."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        await reader.read()
    finally:
        transport.close()
