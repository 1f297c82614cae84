"""``localhost`` as the name of an instance: both loopback addresses, and no resolver."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.localhost import LocalhostResolver, is_localhost

Connect = Callable[..., Awaitable[Cluster]]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


ADDRESSES = ["127.0.0.1"] + (["::1"] if _has_ipv6() else [])


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("gpu1.localhost", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("notlocalhost", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_names_of_this_machine(host: str, local: bool) -> None:
    """``localhost`` and what is below it (RFC 6761 6.3); an address needs no resolver."""
    assert is_localhost(host) is local


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_server_on_one_loopback_address_is_reached(
    connected: Connect, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it listens on, and though a resolver would never answer."""

    async def never(*_arguments: Any, **_options: Any) -> Any:
        await asyncio.Event().wait()

    async def stats(_request: web.Request) -> web.Response:
        return web.json_response({"system": {}})

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    app = web.Application()
    app.router.add_get("/system_stats", stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listening.bind((address, 0))
    await web.SockSite(runner, listening).start()
    try:
        cluster = await connected(f"localhost:{listening.getsockname()[1]}")
        for _ in range(3):
            assert await cluster.health_checker.check(cluster.instances[0])
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("family", "addresses"),
    [
        (socket.AF_UNSPEC, ["127.0.0.1", "::1"]),
        (socket.AF_INET, ["127.0.0.1"]),
        (socket.AF_INET6, ["::1"]),
    ],
)
async def test_the_order_of_addresses(family: socket.AddressFamily, addresses: list[str]) -> None:
    """ComfyUI's own default comes first, each time: two servers on one port are not mixed."""
    resolver = LocalhostResolver()
    for _ in range(2):
        found = await resolver.resolve("localhost", 8188, family)
        assert [one["host"] for one in found] == addresses
        assert {one["port"] for one in found} == {8188}
    await resolver.close()
