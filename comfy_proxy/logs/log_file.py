"""A file of log lines that rotates by size, on a disk that may be full, read-only or gone.

Rotation is the standard library's; a file that somebody else has moved or deleted (logrotate, or
another proxy with this directory) is left for a new one. What cannot be written is counted and
dropped; after a failure the file is tried again now and then, and nobody is stopped by it.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 20 * 2**20
BACKUPS = 5
RETRY_S = 10.0


class _Handler(RotatingFileHandler):
    """Flushed once a batch; errors are raised to whoever writes. A file that cannot be renamed (in
    a directory that is not ours) grows on rather than not being written."""

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
        raise  # it is called by emit(), inside an except clause


class LogFile:
    """Lines go to ``path``; its directory is made if it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handler: _Handler | None = None
        self._retry_at_s = 0.0
        self.dropped = 0
        self.error: OSError | None = None

    def prepare(self, now_s: float) -> None:
        """Make the file, so that whoever follows it finds it; or find out that it cannot be."""
        try:
            self._open(now_s)
        except OSError as error:
            self._fails(error, now_s)

    def write(self, lines: list[str], now_s: float) -> bool:
        """Write whole lines, all or none; ``now_s`` is monotonic. Never raises for the disk."""
        if not lines:
            return True
        try:
            handler = self._open(now_s)
            if handler is not None:
                # As one record: a file is asked for its size once a batch, which costs 15 µs.
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
                raise OSError(f"{self.path} is no file")  # a pipe would hold us up for good
            torn = _ends_in_mid_line(self.path)
            self._handler = _Handler(
                self.path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8"
            )
            if torn:
                self._handler.emit(logging.makeLogRecord({"msg": ""}))  # ends it
        return self._handler


def _was_moved(handler: _Handler) -> bool:
    """Its name belongs to another file by now, or to none."""
    try:
        found = os.stat(handler.baseFilename)
    except FileNotFoundError:
        return True
    return handler.stream is None or not os.path.samestat(found, os.fstat(handler.stream.fileno()))


def _ends_in_mid_line(path: Path) -> bool:
    """The disk was full, or whoever wrote was killed: the next line must begin on its own."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:  # there is none, or nothing in it
        return False
