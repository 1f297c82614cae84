"""A result on its way to the disk or into memory."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

from comfy_proxy.client.effects import Call, Do, NextChunk, Operation, Sleep
from comfy_proxy.client.errors import UnreachableError
from comfy_proxy.client.exchange import exchange
from comfy_proxy.client.policy import Policy, Tries

MAX_NAME_BYTES: Final = 80
"""Bytes of a file's name that its temporary file's name has as well."""

READER_PAUSE_S: Final = 0.1
"""Seconds after which a FIFO that nobody reads is looked at again: no event tells of a reader."""


def fetch(path: str, policy: Policy) -> Operation[bytes]:
    """The bytes, in memory."""
    answer = yield from exchange(Call(method="GET", path=path), policy)
    return answer.body


def save(path: str, name: str, target: str | os.PathLike[str], policy: Policy) -> Operation[Path]:
    """Write the bytes to ``target``, as ``name`` if that is a directory; returns the file's path.

    They go to a temporary file beside it that is renamed when all are there: a file of that name
    is whole, or the one that was there before. A link stays, and the file that it leads to is
    replaced. What is there and is no file (a FIFO, a device) stays too: the bytes are written into
    it when all are there, and a FIFO has a reader. Raises OSError and ClientError.
    """
    arrival: _Arrival = yield Do(partial(_Arrival, target, name))
    try:
        yield from _download(path, arrival.file, policy)
        while not (yield Do(arrival.is_awaited)):
            yield Sleep(READER_PAUSE_S)
        yield Do(arrival.finish)
    finally:
        arrival.put_away()
    return arrival.final


def _download(path: str, file: IO[bytes], policy: Policy) -> Operation[None]:
    """A connection that breaks begins anew."""
    tries = Tries(policy)
    while True:
        yield from exchange(Call(method="GET", path=path), policy, streamed=True, tries=tries)
        try:
            while (chunk := (yield NextChunk())) is not None:
                yield Do(partial(file.write, chunk))
        except UnreachableError:
            pause_s = tries.pause_s()
            if pause_s is None:
                raise
            yield Sleep(pause_s)
            file.seek(0)
            file.truncate()
        else:
            return


def safe_name(name: str) -> str:
    """The last part of a name that a server gave, so that it leads to no other directory."""
    last = name.replace("\\", "/").rpartition("/")[2].strip().lstrip(".")
    return "".join(letter for letter in last if letter.isprintable()) or "result"


class _Arrival:
    """A result that comes into ``file``, and is to be at ``final``."""

    def __init__(self, target: str | os.PathLike[str], name: str) -> None:
        path = Path(target)
        self.final = path / safe_name(name) if path.is_dir() else path
        self._replaced = _replaceable(self.final)
        self._stream: IO[bytes] | None = None
        self.file: IO[bytes]
        if self._replaced is None:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 - put_away() closes it
        else:
            self.file = _temporary(self._replaced)

    def is_awaited(self) -> bool:
        """False if it is to go into a FIFO that nobody has opened. To open that would wait for a
        reader and could not be interrupted."""
        if self._replaced is not None:
            return True
        waiting = getattr(os, "O_NONBLOCK", 0)
        try:
            number = os.open(self.final, os.O_WRONLY | os.O_TRUNC | waiting)
        except OSError as error:
            if error.errno == errno.ENXIO and self.final.is_fifo():
                return False
            raise
        if waiting:
            os.set_blocking(number, True)
        self._stream = open(number, "wb", buffering=0)  # noqa: SIM115 - put_away() closes it
        return True

    def finish(self) -> None:
        """All has come."""
        if self._replaced is not None:
            self.file.close()
            os.replace(self.file.name, self._replaced)
            return
        assert self._stream is not None  # is_awaited() has opened it
        self.file.seek(0)
        shutil.copyfileobj(self.file, self._stream)
        self._stream.close()

    def put_away(self) -> None:
        self.file.close()
        if self._stream is not None:
            self._stream.close()
        if self._replaced is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.file.name)


def _replaceable(final: Path) -> Path | None:
    """The file that is to be replaced (or made), at the end of all links; None if what is there is
    to be written into."""
    try:
        there = os.stat(final)
    except FileNotFoundError:
        return Path(os.path.realpath(final))
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(final))
    real = Path(os.path.realpath(final))
    # /dev/stdout may lead to a file whose name has gone: it can be written into only.
    named = stat.S_ISREG(there.st_mode) and real.exists() and real.samefile(final)
    return real if named else None


def _temporary(final: Path) -> IO[bytes]:
    """A new file beside it. Opened by us, it has the mode that any new file gets.

    Of its name at most MAX_NAME_BYTES are kept, which leave room for the rest of the 255 that file
    systems allow; a character is cut off as a whole.
    """
    begin = os.fsencode(final.name)[:MAX_NAME_BYTES].decode(errors="ignore")
    return final.with_name(f".{begin}.{uuid4().hex}.part").open("xb")
