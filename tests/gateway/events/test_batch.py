"""batch.py: frames that came together are written together, in order, and no later."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from manual_clock import settle

from comfy_proxy.gateway.events import batch as batches
from comfy_proxy.gateway.events import outbox
from comfy_proxy.gateway.events.batch import Batch, Received
from comfy_proxy.gateway.events.frames import Pass
from comfy_proxy.gateway.events.outbox import Outbox
from comfy_proxy.gateway.exchange.socket_traffic import SocketTraffic


class Connection:
    """A WebSocket and its transport: ``written`` is what each write got, ``waiting`` what of it the
    other end has not taken, ``closed`` that goodbye was said. Frames by the WebSocket's own way are
    marked as such, and wait until ``open``."""

    def __init__(self) -> None:
        self.written: list[bytes | tuple[str, str | bytes]] = []
        self.waiting = 0
        self.closed = self.closing = False
        self.open = asyncio.Event()
        self.open.set()

    async def send_str(self, data: str) -> None:
        if self.closed:
            raise ConnectionResetError
        await self.open.wait()
        self.written.append(("own", data))

    async def send_bytes(self, data: bytes) -> None:
        await self.open.wait()
        self.written.append(("own", data))

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.waiting


class Client:
    """An outbox that is open, and takes part in a batch."""

    def __init__(self, batch: Batch) -> None:
        self.connection = Connection()
        self.overflows = 0
        self.traffic = SocketTraffic()
        ws = cast(Any, self.connection)
        self.box = Outbox(ws, self.traffic, batch=batch, on_full=self._too_slow)
        self.box.begin(None, cast(Any, self.connection))

    def _too_slow(self) -> None:
        self.overflows += 1

    def gets(self, *texts: str | bytes) -> None:
        for text in texts:
            self.box.put(Pass(data=text))


@pytest.fixture
def batch() -> Batch:
    return Batch()


@pytest.fixture
def client(batch: Batch) -> Client:
    return Client(batch)


def test_what_came_together_is_one_write(batch: Batch, client: Client) -> None:
    """Text and pictures, in order, once nothing more is there; counted one by one."""
    batch.collects = True
    client.gets("a", b"\0\1", "é" * 70)
    assert client.connection.written == []
    batch.write()
    long = b"\x81\x7e\x00\x8c" + "é".encode() * 70
    assert client.connection.written == [b"\x81\x01a\x82\x02\0\1" + long]
    assert (client.traffic.frames_to_client, client.traffic.sent_bytes) == (3, 143)
    client.gets("b")
    assert client.connection.written[1:] == [("own", "b")]


def test_a_broadcast_is_framed_once_for_all(batch: Batch) -> None:
    """The same bytes for each client."""
    clients, frame = [Client(batch) for _ in range(3)], Pass(data="to all")
    batch.collects = True
    for client in clients:
        client.box.put(frame)
    batch.write()
    assert [client.connection.written for client in clients] == [[b"\x81\x06to all"]] * 3
    assert frame.wire() is frame.wire()


def test_a_large_frame_is_written_at_once_behind_what_came_before(
    batch: Batch, client: Client
) -> None:
    """What comes behind it stays behind it."""
    large = "x" * (batches.KEPT_BYTES + 1)
    batch.collects = True
    client.gets("a", large, "b")
    assert client.connection.written == [b"\x81\x01a", ("own", large)]
    batch.write()
    assert client.connection.written[2:] == [b"\x81\x01b"]


def test_no_more_is_kept_back_than_the_bound(batch: Batch, client: Client) -> None:
    """The first of very many frames need not wait for the last."""
    batch.collects = True
    part = "x" * (batches.KEPT_BYTES // 4)
    client.gets(*[part] * 4)
    assert client.connection.written == []
    client.gets("y")
    assert len(client.connection.written) == 2
    assert client.connection.written[1] == ("own", "y")


async def test_what_a_connection_does_not_take_waits_within_the_bounds(
    batch: Batch, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if each frame had come alone: in order, and counted as held."""
    monkeypatch.setattr(outbox, "MAX_FRAMES", 2)
    client.connection.waiting = 1
    client.connection.open.clear()
    batch.collects = True
    client.gets("a", "bc", "def")
    batch.write()
    assert client.box.held == 6
    assert client.overflows == 0
    batch.collects = True
    client.connection.open.set()
    await settle()
    batch.write()
    await settle()
    assert client.connection.written == [("own", text) for text in ("a", "bc", "def")]


async def test_a_client_that_reads_too_slowly_is_told_apart_in_a_batch_too(
    batch: Batch, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and nobody else hears of it."""
    monkeypatch.setattr(outbox, "MAX_FRAMES", 2)
    other = Client(batch)
    client.connection.waiting = 1
    client.connection.open.clear()
    batch.collects = True
    client.gets("a", "b", "c", "d", "e")
    other.gets("a")
    batch.write()
    assert client.overflows == 1
    assert other.connection.written == [b"\x81\x01a"]
    await client.box.end()


@pytest.mark.parametrize("end", ["closed", "closing"])
def test_nothing_is_written_behind_a_goodbye(batch: Batch, client: Client, end: str) -> None:
    """Nor to a connection that is no more."""
    setattr(client.connection, end, True)
    client.connection.closed = True
    batch.collects = True
    client.gets("a")
    batch.write()
    assert client.connection.written == []


async def test_what_was_kept_back_is_forgotten_with_the_client(
    batch: Batch, client: Client
) -> None:
    """It was muted, or has left, while frames were taken."""
    other = Client(batch)
    batch.collects = True
    client.gets("a")
    client.box.clear()
    other.gets("a")
    await other.box.end()
    batch.write()
    assert client.connection.written == other.connection.written == []


class Source:
    """A socket to an instance whose messages are there, up to the one that has to be waited for."""

    def __init__(self, *messages: str) -> None:
        self._there = list(messages)
        self.coming: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def receive(self) -> str:
        return self._there.pop(0) if self._there else await self.coming


async def test_all_is_written_before_anything_is_waited_for(batch: Batch, client: Client) -> None:
    """Two messages are there, a third one is to come."""
    source = Source("a", "b")
    received = Received(cast(Any, source), batch)

    async def read() -> None:
        for _ in range(3):
            client.gets(await received)
        batch.write()

    reading = asyncio.create_task(read())
    await settle()
    assert client.connection.written == [b"\x81\x01a\x81\x01b"]
    source.coming.set_result("c")
    await reading
    assert client.connection.written[1:] == [b"\x81\x01c"]
    assert not batch.collects


async def test_who_waits_for_a_message_can_be_cancelled(batch: Batch) -> None:
    """As if it waited for the socket itself."""
    source = Source()
    reading = asyncio.ensure_future(Received(cast(Any, source), batch))
    await settle()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.coming.cancelled()
