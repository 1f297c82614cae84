"""What waits for one client: bounded, in order, previews the first to go."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from manual_clock import settle

from comfy_proxy.gateway.events import outbox
from comfy_proxy.gateway.events.frames import Pass
from comfy_proxy.gateway.events.outbox import Outbox, OutboxFullError


class Socket:
    """Takes frames while it is open."""

    def __init__(self) -> None:
        self.sent: list[str | bytes] = []
        self.open = asyncio.Event()
        self.gone = False

    async def send_str(self, data: str) -> None:
        assert isinstance(data, str)
        await self._send(data)

    async def send_bytes(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        await self._send(data)

    async def _send(self, data: str | bytes) -> None:
        await self.open.wait()
        if self.gone:
            raise ConnectionResetError
        self.sent.append(data)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_BYTES", 100)
    monkeypatch.setattr(outbox, "PREVIEW_BYTES", 20)
    monkeypatch.setattr(outbox, "MAX_FRAMES", 10)


async def sent(box: Outbox, socket: Socket, count: int) -> list[str | bytes]:
    """What arrives when everything is read."""
    socket.open.set()
    box.begin()
    await settle()
    assert len(socket.sent) >= count
    await box.end()
    return socket.sent


def box_and_socket() -> tuple[Outbox, Socket]:
    socket = Socket()
    return Outbox(cast(Any, socket)), socket


def preview(letter: str, size: int = 8) -> Pass:
    return Pass(data=letter.encode() * size, droppable=True)


async def test_frames_are_written_in_order_the_greeting_first() -> None:
    """Text as text, binary as binary."""
    box, socket = box_and_socket()
    for data in ("a", b"b", "c"):
        box.put(Pass(data=data))
    box.begin(Pass(data="greeting"))
    assert await sent(box, socket, 4) == ["greeting", "a", b"b", "c"]


@pytest.mark.usefixtures("small")
async def test_waiting_previews_make_room_for_the_newest() -> None:
    """A client that catches up sees the present, and everything that is no preview."""
    box, socket = box_and_socket()
    box.put(Pass(data="one"))
    for letter in "abc":
        box.put(preview(letter))
    box.put(Pass(data="two"))
    assert await sent(box, socket, 3) == ["one", b"c" * 8, "two"]
    assert box.traffic.previews_dropped == 2


@pytest.mark.usefixtures("small")
async def test_no_preview_is_taken_while_much_else_waits() -> None:
    """Results go before previews."""
    box, socket = box_and_socket()
    box.put(Pass(data="x" * 30))
    box.put(preview("a"))
    assert await sent(box, socket, 1) == ["x" * 30]
    assert box.traffic.previews_dropped == 1


@pytest.mark.usefixtures("small")
def test_a_client_that_reads_too_slowly_is_told_of() -> None:
    """By bytes or by frames; what waits is never more than the bound."""
    for size in (40, 1):
        box, _ = box_and_socket()
        box.put(preview("p"))
        frames, waiting = (2, 80) if size == 40 else (10, 10)
        for _ in range(frames):
            box.put(Pass(data="x" * size))
        with pytest.raises(OutboxFullError):
            box.put(Pass(data="x" * size))
        assert repr(box) == f"<Outbox {frames} frames, {waiting} bytes>"
        box.clear()
        assert repr(box) == "<Outbox 0 frames, 0 bytes>"


@pytest.mark.usefixtures("small")
def test_one_large_frame_alone_always_fits() -> None:
    """No bound makes a result undeliverable."""
    box, _ = box_and_socket()
    box.put(Pass(data=b"x" * 1000))
    assert repr(box) == "<Outbox 1 frames, 1000 bytes>"


async def test_what_is_taken_at_once_needs_no_task() -> None:
    """Most clients only look on, and take what they are sent."""
    box, socket = box_and_socket()
    before = asyncio.all_tasks()
    socket.open.set()
    box.begin()
    for data in ("a", b"b"):
        box.put(Pass(data=data))
    assert socket.sent == ["a", b"b"]
    assert asyncio.all_tasks() == before
    assert box.held == 0


async def test_what_is_not_is_written_by_one_task_and_in_order() -> None:
    """It ends when nothing waits any more."""
    box, socket = box_and_socket()
    before = asyncio.all_tasks()
    box.begin()
    for data in "abc":
        box.put(Pass(data=data))
    assert len(asyncio.all_tasks() - before) == 1
    assert box.held == 3
    await settle()
    socket.open.set()
    await settle()
    assert socket.sent == ["a", "b", "c"]
    assert box.held == 0
    assert asyncio.all_tasks() == before


async def test_a_client_that_leaves_while_it_is_written_to_holds_nothing() -> None:
    """Neither what was being written nor what waits behind it."""
    box, socket = box_and_socket()
    box.begin()
    for data in "abc":
        box.put(Pass(data=data))
    await settle()
    socket.gone = True
    socket.open.set()
    await settle()
    assert box.held == 0
    box.put(Pass(data="late"))
    await box.end()
    assert socket.sent == []
