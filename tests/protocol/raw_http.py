"""HTTP on a bare socket: what is sent is what is written, what is read is what came.

No client library stands between: header names, their order and repetitions, interim answers and
the reason stay as they are on the wire. Only chunks are put together and frames told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass, replace

TIMEOUT_S = 60.0
SMALL_FRAME, MEDIUM_FRAME = 126, 127
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9

Header = tuple[bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class Request:
    """``head`` ends with its blank line. ``pieces`` of the body follow one after the other.

    ``waits``: the body only after ``100 Continue``. ``frames``: so many are read after a 101, each
    of ``says`` is sent before the next one.
    """

    head: bytes
    pieces: tuple[bytes, ...] = ()
    waits: bool = False
    frames: int = 0
    says: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``interim`` are status lines of 1xx answers before it; ``frames`` those of a WebSocket."""

    interim: tuple[bytes, ...] = ()
    status_line: bytes
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    frames: tuple[bytes, ...] = ()

    @property
    def status(self) -> int:
        return int(self.status_line.split(b" ", 2)[1])

    def header(self, name: bytes) -> bytes:
        """The value of the first one, or nothing."""
        values = (value for key, value in self.headers if key.lower() == name.lower())
        return next(values, b"")

    def without(self, name: bytes) -> Answer:
        """Less all headers of this name, spelt so."""
        return replace(self, headers=tuple(h for h in self.headers if h[0] != name))

    def with_header(self, name: bytes, value: bytes) -> Answer:
        """All headers of this name with another value."""
        changed = tuple((key, value if key == name else old) for key, old in self.headers)
        return replace(self, headers=changed)


async def exchange(host: str, port: int, request: Request) -> Answer:
    """One request on a connection of its own."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            return await _exchange(reader, writer, request)
        finally:
            writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
) -> Answer:
    async def send_body() -> None:
        with contextlib.suppress(ConnectionError):  # refused half way: the answer tells why
            for piece in request.pieces:
                writer.write(piece)
                await writer.drain()

    writer.write(request.head)
    if not request.waits:
        await send_body()
    interim: list[bytes] = []
    while (answer := await _read_head(reader)).status == 100:
        interim.append(answer.status_line)
        if request.waits:
            await send_body()
    answer = replace(answer, interim=tuple(interim))
    if answer.status == 101:
        return replace(answer, frames=await _frames(reader, writer, request))
    return replace(answer, body=await _read_body(reader, answer, request))


async def _read_head(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    headers = tuple((name, value.strip()) for name, _, value in pairs)
    return Answer(status_line=first, headers=headers)


async def _read_body(reader: asyncio.StreamReader, answer: Answer, request: Request) -> bytes:
    if request.head.startswith(b"HEAD ") or answer.status in (204, 304):
        return b""
    if answer.header(b"Transfer-Encoding").lower() == b"chunked":
        return await _read_chunks(reader)
    if length := answer.header(b"Content-Length"):
        return await reader.readexactly(int(length))
    return await reader.read()


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return bytes(body)


async def _frames(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
) -> tuple[bytes, ...]:
    says = list(request.says)
    frames: list[bytes] = []
    while len(frames) < request.frames:
        if len(frames) >= request.frames - len(request.says) and says:
            writer.write(says.pop(0))
        frames.append(await read_frame(reader))
    return tuple(frames)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """One frame of a server, header and payload (RFC 6455 5.2)."""
    head = await reader.readexactly(2)
    size = head[1] & 0x7F
    more = {SMALL_FRAME: 2, MEDIUM_FRAME: 8}.get(size, 0)
    extended = await reader.readexactly(more)
    if more:
        size = int.from_bytes(extended, "big")
    return head + extended + await reader.readexactly(size)


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """One frame of a client; the mask of zeros leaves the payload readable."""
    head = bytes([(0x80 if final else 0) | opcode])
    if len(payload) < SMALL_FRAME:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 2**16:
        head += struct.pack("!BH", 0x80 | SMALL_FRAME, len(payload))
    else:
        head += struct.pack("!BQ", 0x80 | MEDIUM_FRAME, len(payload))
    return head + bytes(4) + payload
