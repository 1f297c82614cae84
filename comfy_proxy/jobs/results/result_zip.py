"""All results of a job as one ZIP file."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import zipfile
from collections import Counter
from typing import BinaryIO, cast

from comfy_proxy.jobs.results.result_file import MEMORY_BYTES, Results
from comfy_proxy.stored_bytes import StoredBytes

_COPY_BYTES = 2**20


def zip_etag(results: Results) -> str:
    """A validator of :func:`zip_of`, the same for the same results."""
    names = "".join(f"{one.name}\0{one.etag}" for one in results)
    digest = hashlib.sha256(names.encode(errors="replace")).hexdigest()
    return f'"zip-{digest[:32]}"'


async def zip_of(results: Results) -> StoredBytes:
    """The ZIP.

    Nothing is compressed: pictures and videos are already. Two results of one name have their
    numbers in front of it. Raises UnavailableError if the disk does not take it.
    """
    packed = StoredBytes(memory_bytes=MEMORY_BYTES)
    with tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES) as file:
        await asyncio.to_thread(_pack, results, cast(BinaryIO, file))
        while piece := await asyncio.to_thread(file.read, _COPY_BYTES):
            await packed.write(piece)
    return await packed.finish()


def _pack(results: Results, file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, one in zip(_names(results), results, strict=True):
            # ZipInfo has the same date for all: the ZIP of the same results has the same bytes.
            entry = zipfile.ZipInfo(name)
            entry.file_size = one.size
            with archive.open(entry, "w") as into, one.body.open() as source:
                shutil.copyfileobj(source, into, _COPY_BYTES)
    file.seek(0)


def _names(results: Results) -> list[str]:
    """A name for each, no two of them alike on a system that does not tell case apart."""
    names = [one.name.replace("/", "_") for one in results]
    times = Counter(name.casefold() for name in names)
    taken = {name for name, number in times.items() if number == 1}
    for at, name in enumerate(names):
        if name.casefold() in taken and times[name.casefold()] == 1:
            continue
        numbered = f"{at}-{name}"
        while numbered.casefold() in taken:
            numbered = f"{at}-{numbered}"
        taken.add(numbered.casefold())
        names[at] = numbered
    return names
