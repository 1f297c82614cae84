"""Connections to each instance: three HTTP sessions and a bounded pool of WebSockets.

No session has a connection limit: aiohttp counts open WebSockets against it, so that idle sockets
would hold up requests.

A kept connection may have ended without our knowledge (a restart, an idle timeout, a firewall that
forgot it), and then breaks as soon as it is used. Nobody can tell that from an instance that broke
off while it did what was asked. So what a request is decides which connection it gets:

* A request that only reads gets a kept one; if that breaks it is sent again, over a new one.
* A GET of which nobody knows what it does is sent once, over a connection that was in use within
  RECENT_S or over a new one. (New ones alone would be slow: a custom node's page may load a hundred
  pictures.)
* A request that changes something is sent once, over a new one.
"""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import aiohttp
from aiohttp import hdrs
from loguru import logger
from yarl import URL

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.localhost import LocalhostResolver, is_localhost
from comfy_proxy.cluster.roster import Roster
from comfy_proxy.cluster.translation import InstanceGoneError
from comfy_proxy.cluster.websocket_pool import PoolState, WebSocketPool
from comfy_proxy.metrics.records import PoolWait

CONNECT_TIMEOUT_S = 5.0
"""Seconds for a TCP connection to come about; beyond, aiohttp raises ConnectionTimeoutError, by
which ``submit_once.py`` knows that nothing was sent."""
RECENT_S = 1.0
"""Seconds for which an idle connection is kept for GETs that are sent once; then it is closed, and
the next GET opens a new one. One in use a second ago will hardly have been forgotten on the way."""
NEXT_ADDRESS_S = 0.1
"""Seconds that one address of a host has for its answer before the next one is dialled beside it
(RFC 8305 5 allows 0.1 to 2 s). It is the least, because a check has 300 ms in all."""
_SAFE = (hdrs.METH_GET, hdrs.METH_HEAD)
READ_BYTES: Final = 262_144
"""Bytes of an answer's body that wait here before the instance is made to wait; at most twice as
many. Large pieces cost less: with aiohttp's own 64 KiB 20 MB took a quarter more CPU."""
T = TypeVar("T")


class BrokenConnectionError(aiohttp.ClientConnectionError):
    """A connection ended after a request was sent, or while it was, and before an answer began."""


class SentOnce(aiohttp.ClientResponse):
    """The answer to a request that is sent once.

    aiohttp itself repeats GET, HEAD, OPTIONS, PUT and DELETE when a connection breaks, new or not:
    a GET that restarts a server would restart it twice. It does so for the two errors below only,
    so they become another one here. (A client middleware can do the same at three times the cost.)
    """

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Wait for the head of the answer. Raises BrokenConnectionError if there is none."""
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise BrokenConnectionError(str(error)) from error


class ConnectionManager:
    """Owns every connection to every instance; ``start`` before use, ``close`` at the end.

    ``max_connections`` bounds the WebSockets of jobs for each instance, not the HTTP connections.
    ``tls`` says whose certificates are trusted, None those that the system trusts.
    """

    def __init__(
        self,
        instances: Iterable[Instance],
        *,
        max_connections: int,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
    ):
        self._tls = tls or True
        self._instances = Roster.of(instances)
        self._max_connections = max_connections
        self._clock = clock
        self._sessions: dict[Instance, aiohttp.ClientSession] = {}
        self._recent_sessions: dict[Instance, aiohttp.ClientSession] = {}
        self._fresh_sessions: dict[Instance, aiohttp.ClientSession] = {}
        self._pools: dict[Instance, WebSocketPool] = {}
        self.on_wait: list[Callable[[PoolWait], None]] = []
        self.mark = uuid.uuid4().hex  # on each check: whom it comes back to is its own instance
        self.client_prefix = ""  # of the client ids of jobs' sockets; set it before the start

    def __repr__(self) -> str:
        pools = ", ".join(f"{i.host}: {self.pool_state(i)}" for i in self._instances)
        return f"<ConnectionManager {pools}>"

    async def start(self) -> None:
        """Make sessions and pools, also of those that join later; nothing is connected yet."""
        self._instances.each(self._open)

    def _open(self, instance: Instance) -> None:
        self._sessions[instance] = _session(instance, self._tls)
        self._recent_sessions[instance] = _session(instance, self._tls, keepalive_timeout=RECENT_S)
        self._fresh_sessions[instance] = _session(instance, self._tls, force_close=True)
        self._pools[instance] = WebSocketPool(
            instance,
            self._fresh_sessions[instance],
            max_connections=self._max_connections,
            clock=self._clock,
            on_wait=self.on_wait,
            client_prefix=self.client_prefix,
        )

    async def disconnect(self, instance: Instance) -> None:
        """Close every socket and session to one that has left; from now on it is unreachable."""
        pool = self._pools.pop(instance, None)
        if pool is not None:
            await pool.close()
        for sessions in (self._sessions, self._recent_sessions, self._fresh_sessions):
            if (session := sessions.pop(instance, None)) is not None:
                await session.close()

    async def close(self) -> None:
        """Close every socket and session, whoever still holds one."""
        for pool in tuple(self._pools.values()):
            await pool.close()
        for sessions in (self._sessions, self._recent_sessions, self._fresh_sessions):
            for session in tuple(sessions.values()):
                await session.close()
        logger.info("connections to all instances are closed")

    async def request(
        self,
        instance: Instance,
        method: str,
        url: URL | str,
        *,
        once: bool = False,
        fresh: bool = False,
        **options: Any,
    ) -> aiohttp.ClientResponse:
        """The answer of ``instance`` as soon as its head is there; ``options`` are aiohttp's.

        The caller reads the body and ends the answer: ``async with await …request(…) as answer``.
        GET and HEAD count as requests that only read (see the module), unless ``once`` is set.
        ``fresh`` asks for a new connection, to learn how the instance is now. Raises aiohttp's
        errors; BrokenConnectionError if the connection broke before the answer.
        """
        if fresh or method not in _SAFE:
            return await self.fresh_session(instance).request(method, url, **options)
        if once:
            return await _of(self._recent_sessions, instance).request(method, url, **options)
        try:
            return await self.session(instance).request(method, url, **options)
        except BrokenConnectionError as error:
            logger.debug("{}: {} is sent again: {}", instance.host, method, error)
            return await self.fresh_session(instance).request(method, url, **options)

    def session(self, instance: Instance) -> aiohttp.ClientSession:
        """Connections that are kept: raw bytes, no cookies, no total timeout, nothing repeated.

        No total timeout, because an answer may be of any length; who reads it bounds the time.
        Raises InstanceGoneError if ``instance`` has left.
        """
        return _of(self._sessions, instance)

    def fresh_session(self, instance: Instance) -> aiohttp.ClientSession:
        """As :meth:`session`, with a new connection for each request: for checks and sockets."""
        return _of(self._fresh_sessions, instance)

    def pool(self, instance: Instance) -> WebSocketPool:
        """The WebSockets of jobs to this instance. Raises InstanceGoneError if it has
        left."""
        return _of(self._pools, instance)

    def pool_state(self, instance: Instance) -> PoolState:
        """Open, in use and waiting, as ``/health`` shows them; zeros before the start."""
        pool = self._pools.get(instance)
        return pool.state if pool else PoolState(open=0, in_use=0, waiting=0)


def _of(kept: Mapping[Instance, T], instance: Instance) -> T:
    if (found := kept.get(instance)) is None:
        raise InstanceGoneError(f"ComfyUI instance {instance.id} was removed.")
    return found


def _session(
    instance: Instance, tls: ssl.SSLContext | bool, **keeping: Any
) -> aiohttp.ClientSession:
    """``keeping``: options of aiohttp's connector that say how long a connection is kept."""
    local = is_localhost(instance.url.host or "")
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            ssl=tls,
            **keeping,
            happy_eyeballs_delay=NEXT_ADDRESS_S,
            resolver=LocalhostResolver() if local else None,
            use_dns_cache=not local,  # it rotates the addresses; 127.0.0.1 is to stay the first
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        auto_decompress=False,
        read_bufsize=READ_BYTES,
        response_class=SentOnce,
    )
