"""The access log: a line for each request, made on the event loop when its answer has been sent.

A thread that makes lines holds the interpreter lock, and the event loop waits up to 5 ms for it
(``sys.getswitchinterval``) each time it has something to do meanwhile: with lines made in the
writer's thread the p99 of small requests on one connection was 2.5 ms instead of 1.2. If the loop
made sixteen of them in one turn, one request in sixteen would wait for all of these; one by one
they are made while the client reads its answer. The thread only writes, which needs no lock, what
was gathered within GATHER_S. A process of its own would cost 30 MB and a pipe that may be full.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from comfy_proxy.logs.lines import Finished, Line, Redaction, finished, head
from comfy_proxy.logs.log_writer import LogWriter
from comfy_proxy.tracing import TRACE, Trace

if TYPE_CHECKING:
    from comfy_proxy.metrics.records import RequestRecord

GATHER_S: Final = 0.05
"""Seconds for which lines are gathered before the thread gets them: so it wakes up, and takes the
interpreter lock, at most twenty times a second and not once for each line."""

LOGGER: Final = "comfy_proxy.access"
_TOLD: Final = frozenset({"method", "path", "status"})
"""The keys whose values the message of a line consists of."""


class AccessLog:
    """Makes lines of requests for ``writer``. For one event loop; without one a line is given to
    the thread at once."""

    def __init__(self, writer: LogWriter, redaction: Redaction) -> None:
        self._writer = writer
        self._redaction = redaction
        self._lines: list[Finished] = []

    def record(self, request: RequestRecord, level: str) -> None:
        """A line of ``level`` for ``request``, written within moments."""
        if not self._writer.takes(len(self._lines) + 1):
            return
        try:
            line = access_line(request, level, time.time(), TRACE.get(), self._redaction)
            self._lines.append(finished(line, colours=self._writer.colours, told=_TOLD))
        except Exception:  # whatever a client has sent: its answer is not to fail for its line
            self._writer.lost(1)
            return
        if len(self._lines) > 1:
            return
        try:
            asyncio.get_running_loop().call_later(GATHER_S, self.flush)
        except RuntimeError:
            self.flush()

    def flush(self) -> None:
        """Give the thread what was gathered."""
        lines, self._lines = self._lines, []
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
    if request.user_agent is not None:
        line["user_agent"] = redaction.field("user_agent", request.user_agent)
    if request.client is not None:
        line["client"] = redaction.field("client", request.client)
    if request.instance is not None:
        line["instance"] = request.instance
    line["policy"] = request.policy
    if request.reason is not None:
        line["reason"] = redaction.field("reason", request.reason)
    return line
