"""A result on its way to the disk or into memory."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO
from uuid import uuid4

from comfy_proxy.client.effects import Call, Do, NextChunk, Operation, Sleep
from comfy_proxy.client.errors import UnreachableError
from comfy_proxy.client.exchange import exchange
from comfy_proxy.client.policy import Policy, Tries


def fetch(path: str, policy: Policy) -> Operation[bytes]:
    """The bytes, in memory."""
    answer = yield from exchange(Call(method="GET", path=path), policy)
    return answer.body


def save(path: str, name: str, target: str | os.PathLike[str], policy: Policy) -> Operation[Path]:
    """Write the bytes to ``target``, as ``name`` if that is a directory; returns the file's path.

    They go to a temporary file beside it that is renamed when all are there: a file of that name
    is whole, or the one that was there before. Raises OSError and ClientError.
    """
    final = yield Do(partial(_final, target, name))
    file = yield Do(partial(_temporary, final))
    try:
        yield from _download(path, file, policy)
        yield Do(partial(_finish, file, final))
    finally:
        file.close()
        with suppress(FileNotFoundError):
            os.unlink(file.name)
    place: Path = final
    return place


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


def _final(target: str | os.PathLike[str], name: str) -> Path:
    path = Path(target)
    return path / safe_name(name) if path.is_dir() else path


def _temporary(final: Path) -> IO[bytes]:
    """A new file beside it. Opened by us, it has the mode that any new file gets."""
    return open(final.with_name(f".{final.name[:80]}.{uuid4().hex}.part"), "xb")


def _finish(file: IO[bytes], final: Path) -> None:
    file.close()
    os.replace(file.name, final)
