"""Lines for people, on a stream that may be closed, or stalled by whoever reads it.

A terminal may be stopped (Ctrl-S), and a pipe may be emptied by nobody. Lines that find no room
within PATIENCE_S are left out and counted, so that the log files are written all the same.
"""

from __future__ import annotations

import os
import select
import stat
from itertools import accumulate
from typing import TextIO

PATIENCE_S = 1.0
"""Seconds to wait for room before the rest of a batch is left out. After that lines are left out
without waiting, until there is room again."""
PIECE: int = getattr(select, "PIPE_BUF", 512)
"""Bytes of one write: a pipe that has room at all takes so many without waiting (pipe(7))."""
WHOLE = 2**20
"""Bytes of one write to a regular file, which always has room. Fewer calls are better: each takes
the interpreter's lock from the event loop once more."""


class Console:
    """Writes lines to one stream.

    ``colours``: the stream is a terminal. ``missed`` counts the lines left out since it last took
    one; when it takes lines again the number is written first.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._file = _file_of(stream)
        self.missed = 0
        self._torn = ""  # what ends a line of which only a part was written
        self.colours = _is_terminal(stream)
        self._piece = PIECE
        if self._file is not None:
            self._poll = select.poll()
            self._poll.register(self._file, select.POLLOUT)
            if stat.S_ISREG(os.fstat(self._file).st_mode):
                self._piece = WHOLE

    def write(self, lines: list[str]) -> None:
        """Write whole lines as far as there is room; never raises for the stream."""
        if self._stream is None or not lines:
            return
        try:
            if self._file is None:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            else:
                self._write_to(self._file, lines)
        except BlockingIOError:
            self.missed += len(lines)
        except (OSError, ValueError):
            self._stream = None  # it is closed: nothing is written any more

    def _write_to(self, file: int, lines: list[str]) -> None:
        """Write to the descriptor, not to the stream: its lock would be held while nobody reads."""
        notice = ""
        if self.missed:
            if not self._has_room(0.0):
                self.missed += len(lines)
                return
            notice = f"{self._torn}({self.missed} lines are not shown)\n"
        texts = [f"{line}\n".encode("utf-8", "replace") for line in lines]
        texts[0] = notice.encode() + texts[0]
        data, written = b"".join(texts), 0
        while written < len(data) and self._has_room(PATIENCE_S):
            written += os.write(file, data[written : written + self._piece])
        shown = sum(end <= written for end in accumulate(map(len, texts)))
        self.missed = len(lines) - shown if shown else self.missed + len(lines)
        if written:
            self._torn = "" if data[:written].endswith(b"\n") else "\n"

    def _has_room(self, timeout_s: float) -> bool:
        """True if a write would not wait: there is room, or it would fail at once."""
        return bool(self._poll.poll(timeout_s * 1000))


def _file_of(stream: TextIO) -> int | None:
    """The stream's descriptor; None if it has none, or if the system has no ``poll`` for it."""
    try:
        return stream.fileno() if hasattr(select, "poll") else None
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return None


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False
