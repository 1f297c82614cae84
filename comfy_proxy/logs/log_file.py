"""A file of log lines that rotates by size, on a disk that may be full, read-only or gone.

Rotation is the standard library's. If somebody else has moved or deleted the file (logrotate, or
another proxy with this directory) a new one is begun. Lines that cannot be written are counted and
dropped. After a failure the file is tried again every RETRY_S; requests are not affected.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 20 * 2**20
"""Bytes of one file; before a batch would exceed them the file is renamed and a new one begun."""
BACKUPS = 5
"""Renamed files that are kept; the oldest is deleted."""
RETRY_S = 10.0
"""Seconds after a failure in which lines are dropped without touching the disk."""


class _Handler(RotatingFileHandler):
    """Flushes once a batch and raises errors to whoever writes.

    A file that cannot be renamed (in a directory that is not ours) grows beyond MAX_BYTES: better
    than losing all lines from there on.
    """

    def flush(self) -> None:
        pass

    def flush_batch(self) -> None:
        super().flush()

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        try:
            super().doRollover()
        except OSError:
            self.stream = self.stream or self._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        raise  # logging calls this inside an except clause of emit(): the error goes on


class LogFile:
    """Appends lines to ``path``; its directory is made if it is missing.

    ``dropped`` counts lines that were not written, ``error`` is the last failure, None when a write
    has succeeded since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handler: _Handler | None = None
        self._retry_at_s = 0.0
        self.dropped = 0
        self.error: OSError | None = None

    def prepare(self, now_s: float) -> None:
        """Make the file before the first line, for ``tail -f``, or note in ``error`` why not."""
        try:
            self._open(now_s)
        except OSError as error:
            self._fails(error, now_s)

    def write(self, lines: list[str], now_s: float) -> bool:
        """Write ``lines``, all or none; False if none. ``now_s`` is monotonic, in seconds.

        Never raises for the disk: the lines are counted in ``dropped``.
        """
        if not lines:
            return True
        try:
            handler = self._open(now_s)
            if handler is not None:
                # As one record: the handler asks for the file's size (15 µs) once a batch only.
                handler.emit(logging.makeLogRecord({"msg": "\n".join(lines)}))
                handler.flush_batch()
                self.error = None
                return True
        except OSError as error:
            self._fails(error, now_s)
        self.dropped += len(lines)
        return False

    def _fails(self, error: OSError, now_s: float) -> None:
        self.error = error
        self._retry_at_s = now_s + RETRY_S
        self.close()

    def close(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            with suppress(OSError):
                handler.flush_batch()
            with suppress(OSError):
                handler.close()

    def _open(self, now_s: float) -> _Handler | None:
        if self._handler is not None and _was_moved(self._handler):
            self.close()
        if self._handler is None:
            if now_s < self._retry_at_s:
                return None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self.path.is_file() and not self.path.is_char_device():
                raise OSError(f"{self.path} is no file")  # opening a pipe would wait for a reader
            torn = _ends_in_mid_line(self.path)
            self._handler = _Handler(
                self.path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8"
            )
            if torn:
                self._handler.emit(logging.makeLogRecord({"msg": ""}))  # a line feed ends the line
        return self._handler


def _was_moved(handler: _Handler) -> bool:
    """True if the path of ``handler`` now names another file than the open one, or none."""
    try:
        found = os.stat(handler.baseFilename)
    except FileNotFoundError:
        return True
    return handler.stream is None or not os.path.samestat(found, os.fstat(handler.stream.fileno()))


def _ends_in_mid_line(path: Path) -> bool:
    """True if the file's last line has no end, after a full disk or a kill in mid-write.

    The next line must not be appended to that one: it would be no JSON.
    """
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:  # there is none, or nothing in it
        return False
