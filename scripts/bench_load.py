"""What loads a server in bench-forward, and what its processes cost.

Small GETs are wrk's. Bodies and frames come from CLIENTS threads with blocking sockets, which do
next to nothing in Python: each sends, reads the whole answer, and sends again.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench_upstream import FRAME, PICTURE_NAME, SIZE, frame, measures

CLIENTS = 4
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_LUA = """
done = function(summary, latency, requests)
  local errors = summary.errors
  print(string.format("RESULT %d %d %.1f %.1f %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measured stretch of one kind of request at one server."""

    per_second: float
    p50_ms: float
    p99_ms: float
    requests: int


Load = Callable[[int], Sample]
"""From the port of a server."""


def small_gets(path: str, connections: int, duration_s: int) -> Load:
    """wrk, one thread. Exits with its words if a request fails."""

    def load(port: int) -> Sample:
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(_LUA)
            script.flush()
            command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "-s", script.name]
            command.append(f"http://127.0.0.1:{port}{path}")
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", output)
        if found is None or found[5] != "0":
            raise SystemExit(f"wrk failed: {output}")
        requests, duration_us, p50_us, p99_us = (float(text) for text in found.groups()[:4])
        return Sample(
            per_second=requests / duration_us * 1e6,
            p50_ms=p50_us / 1000,
            p99_ms=p99_us / 1000,
            requests=int(requests),
        )

    return load


Exchange = Callable[[socket.socket, memoryview], None]


def closed_loop(exchange: Exchange, duration_s: float, *, upgrade: bool = False) -> Load:
    """CLIENTS connections, ``exchange`` over and over on each; the first of each is not counted."""

    def client(port: int) -> tuple[list[float], float]:
        buffer, times = memoryview(bytearray(1 << 20)), []
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if upgrade:
                _open_websocket(connection)
            exchange(connection, buffer)
            begun = now = time.perf_counter()
            while now - begun < duration_s:
                exchange(connection, buffer)
                times.append(time.perf_counter() - now)
                now += times[-1]
            if upgrade:
                connection.sendall(frame(8, b"", bytes(4)))
        return times, len(times) / (now - begun)

    def load(port: int) -> Sample:
        with ThreadPoolExecutor(CLIENTS) as threads:
            results = list(threads.map(client, [port] * CLIENTS))
        times = sorted(second for one, _ in results for second in one)
        return Sample(
            per_second=sum(rate for _, rate in results),
            p50_ms=statistics.median(times) * 1000,
            p99_ms=times[int(len(times) * 0.99)] * 1000,
            requests=len(times) + CLIENTS,
        )

    return load


def download(connection: socket.socket, buffer: memoryview) -> None:
    connection.sendall(b"GET /download HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _read_answer(connection, buffer, SIZE)


def upload(connection: socket.socket, buffer: memoryview) -> None:
    head = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % SIZE
    connection.sendall(head)
    left = SIZE
    while left:
        left -= connection.send(buffer[: min(left, len(buffer))])
    _read_answer(connection, buffer, None)


_BOUNDARY = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"
_FORM_END = b"\r\n--%b--\r\n" % _BOUNDARY


def upload_picture(connection: socket.socket, buffer: memoryview) -> None:
    """As ComfyUI's page does: a form with other bytes each time, or nothing would be copied."""
    head = b'--%b\r\nContent-Disposition: form-data; name="image"; filename="%b"\r\n\r\n%b'
    head %= _BOUNDARY, PICTURE_NAME, os.urandom(16)
    length = len(head) + SIZE + len(_FORM_END)
    connection.sendall(
        b"POST /upload/image HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=%b\r\n\r\n%b" % (length, _BOUNDARY, head)
    )
    left = SIZE
    while left:
        left -= connection.send(buffer[: min(left, len(buffer))])
    connection.sendall(_FORM_END)
    _read_answer(connection, buffer, None)


_CREDIT = frame(1, b"{}", bytes(4))
_PICTURE = frame(2, bytes(FRAME), bytes(4))


def frame_down(connection: socket.socket, buffer: memoryview) -> None:
    connection.sendall(_CREDIT)
    _read_frame(connection, buffer)


def frame_up(connection: socket.socket, buffer: memoryview) -> None:
    connection.sendall(_PICTURE)
    _read_frame(connection, buffer)


def _read_answer(connection: socket.socket, buffer: memoryview, size: int | None) -> None:
    """To its end; ``size`` is what the body must have."""
    read, end = 0, -1
    while end < 0:
        read += _receive(connection, buffer[read:])
        end = bytes(buffer[:read]).find(b"\r\n\r\n")
    head = bytes(buffer[:end])
    length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
    if (
        not head.startswith(b"HTTP/1.1 200 ")
        or length is None
        or size not in (None, int(length[1]))
    ):
        raise SystemExit(f"not the answer that was expected: {head!r}")
    left = int(length[1]) - (read - end - 4)
    while left:
        left -= _receive(connection, buffer[: min(left, len(buffer))])


def _read_frame(connection: socket.socket, buffer: memoryview) -> None:
    read, found = 0, None
    while found is None or read < found[1] + found[2]:
        read += _receive(connection, buffer[read:])
        found = measures(bytes(buffer[:14])[:read])


def _receive(connection: socket.socket, buffer: memoryview) -> int:
    size = connection.recv_into(buffer)
    if size == 0:
        raise SystemExit("a server closed the connection")
    return size


def _open_websocket(connection: socket.socket) -> None:
    key = base64.b64encode(os.urandom(16))
    connection.sendall(
        b"GET /socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    if not head.startswith(b"HTTP/1.1 101 "):
        raise SystemExit(f"no WebSocket: {head!r}")


def cpu_seconds(pid: int) -> float:
    """User and system time of ``pid``, of its children that live, and of those that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) * _TICK_S + sum(cpu_seconds(int(one)) for one in children)
