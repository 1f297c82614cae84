"""What a test does at the instances themselves, of which the proxy hears by them alone."""

from __future__ import annotations

import aiohttp
from job_client import until
from prompt_client import graph

from comfy_proxy.embedded.worker import EmbeddedWorker


async def interrupt(*workers: EmbeddedWorker) -> None:
    """End what runs there."""
    async with aiohttp.ClientSession() as session:
        for worker in workers:
            async with session.post(f"{worker.url}/interrupt") as answer:
                assert answer.status == 200


async def keep_busy(*workers: EmbeddedWorker) -> None:
    """Give each a prompt of a minute."""
    async with aiohttp.ClientSession() as session:
        for worker in workers:
            async with session.post(f"{worker.url}/prompt", json={"prompt": graph(60.0)}) as answer:
                prompt_id = (await answer.json())["prompt_id"]
            await until(lambda worker=worker, prompt_id=prompt_id: prompt_id in worker.started)
