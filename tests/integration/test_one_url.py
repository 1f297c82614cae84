"""Forty clients at one address: each gets its own events and its own bytes, over both instances."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from crowd import check_crowd, crowd, five_prompts, over_a_restart
from crowd_client import Client

from comfy_proxy.embedded.worker import EmbeddedWorker

pytestmark = pytest.mark.long

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


async def test_forty_clients_with_one_prefix_get_their_own(proxy: Any, workers: Pair) -> None:
    """200 of 200 results under colliding names are their client's own; each prompt ran once."""
    async with crowd(proxy) as clients:
        await asyncio.gather(*(five_prompts(client) for client in clients))
        await check_crowd(clients, [worker.url for worker in workers])
    check_runs(clients, workers)


async def test_names_hold_over_a_restart_of_the_proxy(start_proxy: Any, workers: Pair) -> None:
    """Results, inputs and uploads under the names told before it; prompts run on, each once."""

    async def start() -> Any:
        return await start_proxy(*workers)

    check_runs(await over_a_restart(await start(), start), workers)


def check_runs(clients: Sequence[Client], workers: Pair) -> None:
    """Each prompt was started once, wherever that was."""
    started = Counter([*workers[0].started, *workers[1].started])
    assert started == Counter(prompt_id for client in clients for prompt_id in client.graphs)
