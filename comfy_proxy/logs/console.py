"""Lines for people, on a stream that may be closed, or stalled by whoever reads it.

A terminal that is stopped (Ctrl-S), a pipe that nobody empties: what finds no room within a moment
is left out and counted, so that the files beside it are written all the same.
"""

from __future__ import annotations

import os
import select
import stat
from itertools import accumulate
from typing import TextIO

PATIENCE_S = 1.0
PIECE: int = getattr(select, "PIPE_BUF", 512)
"""A pipe that has room at all takes so many bytes without waiting (pipe(7))."""
WHOLE = 2**20
"""A file takes everything, and each call costs the event loop its turn."""


class Console:
    """``colours`` if it is a terminal. ``missed`` counts what was left out since it last worked."""

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
            self._stream = None  # nobody is there any more

    def _write_to(self, file: int, lines: list[str]) -> None:
        """Past the stream's own buffer: its lock would be held while nobody reads."""
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
        """Also if writing would fail at once."""
        return bool(self._poll.poll(timeout_s * 1000))


def _file_of(stream: TextIO) -> int | None:
    """None where it cannot be asked for room."""
    try:
        return stream.fileno() if hasattr(select, "poll") else None
    except (OSError, ValueError):  # it is none of the system's, or closed
        return None


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False
