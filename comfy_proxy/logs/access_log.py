"""The access log: a line for each request, made on the event loop, a few at a time.

A thread that makes lines holds the interpreter lock, and the event loop waits up to 5 ms for it
(``sys.getswitchinterval``) each time it has something to do meanwhile: with lines made in the
writer's thread the p99 of small requests on one connection was 2.5 ms instead of 1.2. Here
LINES_AT_ONCE of them are some 0.2 ms in which nobody else has a turn, and the thread only writes,
which needs no lock. A process of its own would cost 30 MB and a pipe that may be full.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from comfy_proxy.logs.lines import Finished, Line, Redaction, finished, head
from comfy_proxy.logs.log_writer import LogWriter
from comfy_proxy.tracing import TRACE, Trace

if TYPE_CHECKING:
    from comfy_proxy.metrics.records import RequestRecord

GATHER_S: Final = 0.05
"""Seconds for which the first request of a batch waits for more: lines are made when answers are on
their way, and the thread wakes up less often."""
LINES_AT_ONCE: Final = 16
"""Lines that are made in one turn of the event loop; the next ones are made in its next turn."""

LOGGER: Final = "comfy_proxy.access"


class AccessLog:
    """Makes lines of requests for ``writer``. For one event loop; without one a line is made at
    once."""

    def __init__(self, writer: LogWriter, redaction: Redaction) -> None:
        self._writer = writer
        self._redaction = redaction
        self._requests: deque[tuple[RequestRecord, str, float, Trace | None]] = deque()
        self._due = False

    def record(self, request: RequestRecord, level: str) -> None:
        """A line of ``level`` for ``request``, within moments."""
        if not self._writer.takes(len(self._requests) + 1):
            return
        self._requests.append((request, level, time.time(), TRACE.get()))
        if self._due:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            self._due = True
            loop.call_later(GATHER_S, self._make_some, loop)

    def flush(self) -> None:
        """Make all lines that are still to be made; from any thread."""
        while self._requests:
            self._make(LINES_AT_ONCE)

    def _make_some(self, loop: asyncio.AbstractEventLoop) -> None:
        self._make(LINES_AT_ONCE)
        self._due = bool(self._requests)
        if self._due:
            loop.call_soon(self._make_some, loop)

    def _make(self, count: int) -> None:
        lines: list[Finished] = []
        for _ in range(count):
            try:
                request, level, time_s, trace = self._requests.popleft()
            except IndexError:  # they are all made, or another thread makes the last ones
                break
            try:
                line = access_line(request, level, time_s, trace, self._redaction)
                lines.append(finished(line, colours=self._writer.colours))
            except Exception:  # one line that cannot be made takes no other with it
                self._writer.lost(1)
        self._writer.put_lines(lines)


def access_line(
    request: RequestRecord, level: str, time_s: float, trace: Trace | None, redaction: Redaction
) -> Line:
    """The line of one request. ``request.path`` is without the query, which may hold a key."""
    method = redaction.field("method", request.method)
    path = redaction.field("path", request.path)
    line = head(time_s, level, f"{method} {path} {request.status}", LOGGER, trace)
    line["duration_ms"] = round(request.duration_s * 1000, 1)
    line["method"], line["path"], line["status"] = method, path, request.status
    line["received_bytes"], line["sent_bytes"] = request.received_bytes, request.sent_bytes
    for name in ("user_agent", "client", "instance", "policy", "reason"):
        if (value := getattr(request, name)) is not None:
            line[name] = redaction.field(name, value)
    return line
