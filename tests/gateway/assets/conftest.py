"""Two servers with assets behind a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from assets_front import AssetServer
from rooms_harness import Client
from views_harness import front

from comfy_proxy.gateway.gateway import Gateway


@pytest.fixture
async def one() -> AsyncIterator[AssetServer]:
    async with AssetServer("one") as server:
        yield server


@pytest.fixture
async def two() -> AsyncIterator[AssetServer]:
    async with AssetServer("two") as server:
        yield server


@pytest.fixture
async def proxied(one: AssetServer, two: AssetServer) -> AsyncIterator[tuple[Client, Gateway]]:
    """A client of both, and the gateway."""
    async with front(one.url, two.url) as (client, gateway):
        yield client, gateway


@pytest.fixture
def client(proxied: tuple[Client, Gateway]) -> Client:
    return proxied[0]


@pytest.fixture
def gateway(proxied: tuple[Client, Gateway]) -> Gateway:
    return proxied[1]
