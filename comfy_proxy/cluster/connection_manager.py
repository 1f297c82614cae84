"""Connections to each host (story 1.3): HTTP sessions and a bounded pool of WebSockets.

For each instance one session for everything, one for probes with a connector of its own (a probe
must never wait behind a download), and a :class:`WebSocketPool`. No session has a connection
limit: aiohttp counts open WebSockets against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import aiohttp
from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.websocket_pool import PoolState, WebSocketPool
from comfy_proxy.metrics.records import PoolWait

CONNECT_TIMEOUT_S = 5.0


class ConnectionManager:
    """Owns every connection to every instance; ``start`` before use, ``close`` at the end."""

    def __init__(self, instances: Sequence[Instance], *, max_connections: int, clock: Clock):
        self._instances = tuple(instances)
        self._max_connections = max_connections
        self._clock = clock
        self._sessions: dict[Instance, aiohttp.ClientSession] = {}
        self._probe_sessions: dict[Instance, aiohttp.ClientSession] = {}
        self._pools: dict[Instance, WebSocketPool] = {}
        self.on_wait: list[Callable[[PoolWait], None]] = []

    def __repr__(self) -> str:
        pools = ", ".join(f"{i.host}: {self.pool_state(i)}" for i in self._instances)
        return f"<ConnectionManager {pools}>"

    async def start(self) -> None:
        """Make sessions and pools; nothing is connected yet."""
        for instance in self._instances:
            self._sessions[instance] = _session()
            self._probe_sessions[instance] = _session()
            self._pools[instance] = WebSocketPool(
                instance,
                self._sessions[instance],
                max_connections=self._max_connections,
                clock=self._clock,
                on_wait=self.on_wait,
            )

    async def close(self) -> None:
        """Close every socket and session, whoever still holds one."""
        for pool in self._pools.values():
            await pool.close()
        for session in (*self._sessions.values(), *self._probe_sessions.values()):
            await session.close()
        logger.info("connections to all instances are closed")

    def session(self, instance: Instance) -> aiohttp.ClientSession:
        """For forwarding and for the client: raw bytes, no cookies kept, no total timeout."""
        return self._sessions[instance]

    def probe_session(self, instance: Instance) -> aiohttp.ClientSession:
        """For health checks alone."""
        return self._probe_sessions[instance]

    def pool(self, instance: Instance) -> WebSocketPool:
        """The WebSockets of jobs to this instance."""
        return self._pools[instance]

    def pool_state(self, instance: Instance) -> PoolState:
        """Open, in use and waiting, as ``/health`` shows them; zeros before the start."""
        pool = self._pools.get(instance)
        return pool.state if pool else PoolState(open=0, in_use=0, waiting=0)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        auto_decompress=False,
    )
