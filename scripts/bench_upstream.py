"""The instance behind bench-forward: a server that does as little as can be, to be no bottleneck.

It speaks just enough HTTP/1.1 (no pipelining, no chunks) and WebSocket for the benchmark:
`/system_stats` and `/small` are a small JSON, `/download` is SIZE bytes, `/upload` takes any number
of them, `/upload/image` too, as the picture PICTURE_NAME, and a WebSocket at `/socket` answers a
text frame with FRAME bytes and a binary frame with a short text. usage: bench_upstream.py PORT...
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
import sys

import uvloop

SIZE = 20_000_000
FRAME = 100_000
SMALL = b'{"system":{"os":"posix","comfyui_version":"0.3.75"},"devices":[{"name":"bench"}]}'
PICTURE_NAME = b"bench.png"
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE = 1, 2, 8


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """One whole WebSocket frame; with ``mask`` a client's (zeros leave the payload as it is)."""
    flag, size = (0x80 if mask else 0), len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, flag | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, flag | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, flag | 127, size)
    return head + mask + payload


def measures(data: bytes) -> tuple[int, int, int] | None:
    """Opcode, length of the head and of the payload of the frame that begins ``data``, if known."""
    if len(data) < 2:
        return None
    size, head = data[1] & 0x7F, 2
    if size >= 126:
        head, form = (4, "!H") if size == 126 else (10, "!Q")
        if len(data) < head:
            return None
        size = struct.unpack_from(form, data, 2)[0]
    return data[0] & 0x0F, head + (4 if data[1] & 0x80 else 0), size


def answer(body: bytes, kind: bytes = b"application/json") -> bytes:
    """A whole answer of HTTP."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
        + body
    )


JSON_ANSWER = answer(SMALL)
TAKEN_ANSWER = answer(b'{"name":"%b","subfolder":"","type":"input"}' % PICTURE_NAME)
LARGE_ANSWER = answer(bytes(SIZE), b"application/octet-stream")
PICTURE_FRAME = frame(_BINARY, bytes(FRAME))
SHORT_FRAME = frame(_TEXT, b"{}")


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self) -> None:
        self._head = b""
        self._body_left = 0
        self._is_socket = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._is_socket:
            self._frames(data)
        elif self._body_left:
            self._body(len(data))
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end >= 4:
                head, rest, self._head = self._head[:end], self._head[end:], b""
                self._request(head, rest)

    def _request(self, head: bytes, rest: bytes) -> None:
        if head.startswith((b"GET /small", b"GET /system_stats", b"GET /i18n")):
            self._transport.write(JSON_ANSWER)
        elif head.startswith(b"GET /download"):
            self._transport.write(LARGE_ANSWER)
        elif head.startswith(b"POST /upload"):
            is_picture = head.startswith(b"POST /upload/image")
            self._taken = TAKEN_ANSWER if is_picture else JSON_ANSWER
            self._body_left = int(_value(head, b"content-length"))
            self._body(len(rest))
        elif head.startswith(b"GET /socket"):
            digest = hashlib.sha1(_value(head, b"sec-websocket-key") + _MAGIC).digest()
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(digest)
            )
            self._is_socket = True
        else:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def _body(self, size: int) -> None:
        self._body_left -= size
        if self._body_left == 0:
            self._transport.write(self._taken)

    def _frames(self, data: bytes) -> None:
        """Heads are looked at, payloads only counted."""
        while data:
            if self._body_left:
                taken = min(self._body_left, len(data))
                self._body_left -= taken
                data = data[taken:]
            else:
                self._head += data
                found = measures(self._head)
                if found is None:
                    return
                self._opcode, head, self._body_left = found
                data, self._head = self._head[head:], b""
            if self._body_left == 0:
                self._end_of_frame()

    def _end_of_frame(self) -> None:
        if self._opcode == _TEXT:
            self._transport.write(PICTURE_FRAME)
        elif self._opcode == _BINARY:
            self._transport.write(SHORT_FRAME)
        elif self._opcode == _CLOSE:
            self._transport.write(frame(_CLOSE, b""))
            self._transport.close()


def _value(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    raise ValueError(f"there is no {name.decode()}")


async def main() -> None:
    loop = asyncio.get_running_loop()
    ports = sys.argv[1:]
    servers = [await loop.create_server(Connection, "127.0.0.1", int(port)) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main())
