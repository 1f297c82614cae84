"""All results of a job as one ZIP file."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import zipfile
from typing import BinaryIO, cast

from comfy_proxy.jobs.result_file import MEMORY_BYTES, Results
from comfy_proxy.stored_bytes import StoredBytes

_COPY_BYTES = 2**20


async def zip_of(results: Results) -> tuple[StoredBytes, str]:
    """The ZIP, and a validator that is the same for the same results.

    Nothing is compressed: pictures and videos are already. Two results of one name have their
    numbers in front of it. Raises UnavailableError if the disk does not take it.
    """
    packed = StoredBytes(memory_bytes=MEMORY_BYTES)
    with tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES) as file:
        await asyncio.to_thread(_pack, results, cast(BinaryIO, file))
        while piece := await asyncio.to_thread(file.read, _COPY_BYTES):
            await packed.write(piece)
    await packed.finish()
    names = "".join(f"{one.name}\0{one.etag}" for one in results)
    digest = hashlib.sha256(names.encode(errors="replace")).hexdigest()
    return packed, f'"zip-{digest[:32]}"'


def _pack(results: Results, file: BinaryIO) -> None:
    names = [one.name for one in results]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for at, one in enumerate(results):
            name = one.name if names.count(one.name) == 1 else f"{at}-{one.name}"
            # ZipInfo has the same date for all: the ZIP of the same results has the same bytes.
            entry = zipfile.ZipInfo(name.replace("/", "_"))
            entry.file_size = one.size
            with archive.open(entry, "w") as into, one.body.open() as source:
                shutil.copyfileobj(source, into, _COPY_BYTES)
    file.seek(0)
