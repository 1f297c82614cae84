"""An entry of the history as it stands in the file, and back. Pure.

A row is the length of its head (4 bytes), the head as JSON, then the two packed parts as they are
in memory: nothing is packed or unpacked for the file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.views.kept_entries import KeptEntry
from comfy_proxy.lenient_json import dumps_exact, loads_exact

_LENGTH: Final = struct.Struct("!I")


def written(entry: KeptEntry, instance: Instance) -> bytes:
    """``entry`` of ``instance``, which is named by its URL. ``kept_at`` is left out: it means
    something only to the process that has watched the instance since."""
    head = dumps_exact(
        {
            "prompt_id": entry.prompt_id,
            "url": str(instance.url),
            "ended_ms": entry.ended_ms,
            "own": entry.own,
            "split": entry.split,
            "job_bytes": len(entry.packed_job),
            "files": [[one.type, one.subfolder, one.filename] for one in entry.files],
        }
    )
    return b"".join((_LENGTH.pack(len(head)), head, entry.packed_job, entry.packed))


def read(data: bytes, by_url: Mapping[str, Instance]) -> KeptEntry | None:
    """The entry; None if its instance is none of ours any more. Raises KeyError, TypeError,
    ValueError, struct.error for what :func:`written` has not written."""
    (length,) = _LENGTH.unpack_from(data)
    begin = _LENGTH.size + length
    head = loads_exact(data[_LENGTH.size : begin])
    if (instance := by_url.get(head["url"])) is None:
        return None
    end = begin + head["job_bytes"]
    return KeptEntry(
        prompt_id=head["prompt_id"],
        instance=instance,
        kept_at=None,
        ended_ms=head["ended_ms"],
        own=head["own"],
        split=head["split"],
        packed=data[end:],
        packed_job=data[begin:end],
        files=tuple(
            FileName(filename=filename, subfolder=subfolder, type=type_)
            for type_, subfolder, filename in head["files"]
        ),
    )
