"""One WebSocket between a client and an instance, and every frame passed as it came.

These are two sockets, the client's and the upstream one. The instance is asked first, so that its
refusal (403, 404, a redirect) is the client's answer. Then each socket has a pump that reads it and
writes the other. Text, binary, ping, pong and close frames all go through; the two ends do the
closing handshake with each other, codes and reasons included, and only then both connections end.

How a socket that ends otherwise ends the other:

* connection lost without a close frame, or a broken protocol → the other connection ends without
  one too, so that its end sees 1006 (which cannot be sent) exactly as without a proxy;
* no answer to a close frame within ``CLOSE_TIMEOUT_S`` → both end so;
* the proxy stops → both ends are told 1001 (going away); the client's key is none any more → it is
  told 1008 (policy violation), the instance 1001.

No compression on either: a frame that is inflated and deflated again costs more than it saves.
A slow reader stops the pump (both ends' flow control), so nothing piles up.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType, hdrs, web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.connection_manager import SentOnce
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.blame import told_apart
from comfy_proxy.gateway.exchange.context import SOCKETS, STOPPING
from comfy_proxy.gateway.exchange.forward import (
    AUTO_HEADERS,
    accounted,
    forward,
    relay,
)
from comfy_proxy.gateway.exchange.headers import handshake_headers, websocket_headers
from comfy_proxy.gateway.exchange.socket_traffic import SocketTraffic, counted
from comfy_proxy.gateway.exchange.target import instance_url

CLOSE_TIMEOUT_S = 10.0
"""Seconds that one end has to answer a close frame of the other. Beyond it both connections are
cut."""
GOODBYE_TIMEOUT_S = 2.0
"""Seconds that an end has to answer a close frame of ours. Beyond it its connection is cut."""
_DATA = (WSMsgType.TEXT, WSMsgType.BINARY)
_FRAMES = (*_DATA, WSMsgType.PING, WSMsgType.PONG)
_NO_CODE = 0
_UNSENDABLE = (1005, 1006, 1015)
_PROTOCOL_ERROR = 1002

_Socket = web.WebSocketResponse[bool] | ClientWebSocketResponse[bool]


async def forward_websocket(
    request: web.Request,
    instance: Instance,
    cluster: Cluster,
    *,
    to_client: Callable[[bytes], bytes] | None = None,
) -> web.StreamResponse:
    """Join the client's WebSocket with one to ``instance``; returns when both have ended.

    ``to_client`` makes of a text frame of the instance the one that the client gets.
    A handshake that is none is forwarded as any other request: the instance tells what is wrong.
    Raises InstanceError if no connection came about.
    The attempt that is accounted is the handshake: a socket may stay open for days.
    """
    if not web.WebSocketResponse().can_prepare(request):
        return await forward(request, instance, cluster)
    answers = _Handshake()
    async with _dialler(cluster.connections.fresh_session(instance), answers) as session:
        upstream = await accounted(
            request,
            instance,
            "websocket",
            lambda: _dial(session, request, instance, cluster),
        )
        if isinstance(upstream, web.StreamResponse):
            return upstream
        try:
            return await _join(request, upstream, answers, instance, cluster, to_client)
        finally:
            answers.close()


class _Handshake:
    """A client middleware that keeps the instance's answer, which aiohttp would throw away."""

    def __init__(self) -> None:
        self.response: aiohttp.ClientResponse | None = None

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        self.response = await handler(request)
        if self.response.status != 101:
            raise _RefusedError(self.response)
        return self.response

    def close(self) -> None:
        """End the connection; what was written goes out first."""
        if self.response is not None:
            self.response.close()


class _RefusedError(Exception):
    """The instance answered the handshake with something else than 101."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__(response.status)
        self.response = response


def _dialler(session: aiohttp.ClientSession, answers: _Handshake) -> aiohttp.ClientSession:
    """``session``'s connector under settings of one handshake: ``ws_connect`` takes none itself."""
    return aiohttp.ClientSession(
        connector=session.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=session.timeout,
        auto_decompress=False,
        skip_auto_headers=AUTO_HEADERS,
        middlewares=(answers,),
        response_class=SentOnce,
    )


async def _dial(
    session: aiohttp.ClientSession, request: web.Request, instance: Instance, cluster: Cluster
) -> ClientWebSocketResponse[bool] | web.StreamResponse:
    """The upstream socket, or the instance's refusal, already sent to the client."""
    try:
        with told_apart(instance):
            return await session.ws_connect(
                instance_url(request, instance, cluster.settings),
                headers=websocket_headers(request, instance, cluster.settings),
                protocols=_protocols(request),
                autoclose=False,
                autoping=False,
                compress=0,
                max_msg_size=0,
                decode_text=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE_TIMEOUT_S),
            )
    except _RefusedError as refused:
        try:
            return await relay(request, refused.response, instance, cluster)
        finally:
            refused.response.close()


def _protocols(request: web.Request) -> list[str]:
    values = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
    return [name.strip() for name in ",".join(values).split(",") if name.strip()]


async def _join(
    request: web.Request,
    upstream: ClientWebSocketResponse[bool],
    answers: _Handshake,
    instance: Instance,
    cluster: Cluster,
    to_client: Callable[[bytes], bytes] | None,
) -> web.StreamResponse:
    client: web.WebSocketResponse[bool] = web.WebSocketResponse(
        protocols=[upstream.protocol] if upstream.protocol else [],
        autoclose=False,
        autoping=False,
        compress=False,
        max_msg_size=0,
        decode_text=False,
        timeout=GOODBYE_TIMEOUT_S,
    )
    if answers.response is not None:
        client.headers.extend(handshake_headers(answers.response, instance, cluster.settings))
    try:
        await client.prepare(request)
    except ConnectionError:
        return client  # left in the meantime; aiohttp will see so too
    bridge = Bridge(client, upstream, instance, to_client)
    sockets = request.config_dict.get(SOCKETS, {})
    sockets[bridge] = request
    try:
        with counted(request, bridge.traffic):
            await bridge.run()
    finally:
        sockets.pop(bridge, None)
    if request.transport is not None:
        # What was written goes out first. Without this aiohttp would add a close frame of its own.
        request.transport.close()
    return client


class Bridge:
    """The two sockets and their pumps; :meth:`run` owns both tasks and awaits both."""

    def __init__(
        self,
        client: web.WebSocketResponse[bool],
        upstream: ClientWebSocketResponse[bool],
        instance: Instance,
        to_client: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._instance = instance
        self._to_client = to_client
        self._stopped = asyncio.Event()
        self._goodbye: tuple[int, bytes] = aiohttp.WSCloseCode.GOING_AWAY, STOPPING
        self.traffic = SocketTraffic()

    def stop(self, code: int = aiohttp.WSCloseCode.GOING_AWAY, reason: bytes = STOPPING) -> None:
        """End :meth:`run`: the client is told why, the instance that it goes away (1001)."""
        self._goodbye = code, reason
        self._stopped.set()

    async def run(self) -> None:
        """Pump until both ends have closed with each other, or one of them is lost."""
        pumps = [
            asyncio.create_task(_pump(self._client, self._upstream, self.traffic.to_instance)),
            asyncio.create_task(_pump(self._upstream, self._client, self._heard, self._to_client)),
        ]
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            done, _ = await asyncio.wait([*pumps, stopped], return_when=asyncio.FIRST_COMPLETED)
            if stopped not in done and all(pump.result() for pump in done):
                # A close frame was passed on; the answer to it is still to come back.
                await asyncio.wait(pumps, timeout=CLOSE_TIMEOUT_S)
        finally:
            for task in (*pumps, stopped):
                task.cancel()
            await asyncio.wait([*pumps, stopped])
        if self._stopped.is_set():
            await self._say_goodbye()

    def _heard(self, data: bytes) -> None:
        """A frame of the instance went to the client."""
        self._instance.frame_seen()
        self.traffic.to_client(data)

    async def _say_goodbye(self) -> None:
        code, reason = self._goodbye
        await asyncio.gather(
            self._client.close(code=code, message=reason),
            self._upstream.close(code=aiohttp.WSCloseCode.GOING_AWAY),
        )


async def _pump(
    source: _Socket,
    sink: _Socket,
    count: Callable[[bytes], None],
    change: Callable[[bytes], bytes] | None = None,
) -> bool:
    """Pass frames on until a close frame was (True) or one of the connections is lost (False).

    ``change`` makes of a text frame the one that is passed on, if given.
    """
    try:
        while True:
            message = await source.receive()
            if message.type is WSMsgType.CLOSE:
                await sink.send_frame(close_payload(message.data, message.extra), WSMsgType.CLOSE)
                return True
            if message.type not in _FRAMES:
                return False
            data = message.data
            if change is not None and message.type is WSMsgType.TEXT:
                data = change(data)
            await sink.send_frame(data, message.type)
            if message.type in _DATA:
                count(data)
    except ConnectionError:
        return False


def close_payload(code: int, reason: str | None) -> bytes:
    """The body of a close frame (RFC 6455 5.5.1) that passes on one with ``code`` (0: none).

    A close without a code stays one. 1005, 1006 and 1015 must not be on the wire (7.4.1): whoever
    sent one broke the protocol, and 1002 says so.
    """
    if code == _NO_CODE:
        return b""
    if code in _UNSENDABLE:
        code = _PROTOCOL_ERROR
    return struct.pack("!H", code) + (reason or "").encode()
