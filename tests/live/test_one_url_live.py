"""The crowd of tests/integration/test_one_url.py before two real servers."""

from __future__ import annotations

import asyncio
from typing import Any

from crowd import check_crowd, crowd, five_prompts, over_a_restart


async def test_forty_clients_with_one_prefix_get_their_own_of_real_servers(
    live_urls: tuple[str, str], start_proxy: Any
) -> None:
    """200 of 200 results under colliding names are their client's own, with all its events."""
    async with crowd(await start_proxy(*live_urls)) as clients:
        await asyncio.gather(*(five_prompts(client) for client in clients))
        await check_crowd(clients, live_urls)


async def test_names_hold_over_a_restart_of_the_proxy_before_real_servers(
    live_urls: tuple[str, str], start_proxy: Any
) -> None:
    """Results, inputs and uploads under the names that were told before it."""

    async def start() -> Any:
        return await start_proxy(*live_urls)

    await over_a_restart(await start(), start)
