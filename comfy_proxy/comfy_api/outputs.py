"""What a job has made, as the contract's outputs: one for each file and each text."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import digest
from itertools import islice
from typing import Any, Final

from comfy_proxy.gateway.files.file_name import FileName, file_at
from comfy_proxy.media_types import media_type_of

MAX_OF_JOB: Final = 10_000
"""Outputs of one job, the first that were told; of more than them nothing is told. Each answer
about a job has all of its outputs in it, and 100,000 took seconds of everybody's time."""
FOUND_AT_ONCE: Final = 100
"""Outputs that are made out of a node's results in one turn of the event loop: some 2 ms."""
TEXT: Final = "text/plain; charset=utf-8"
_KINDS: Final[Mapping[str, str]] = {
    "images": "image",
    "gifs": "video",
    "video": "video",
    "audio": "audio",
    "latents": "latent",
    "text": "text",
}
"""By the name under which a node tells its results."""
_BY_TYPE: Final = ("image", "video", "audio", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A result of ``node_id``. ``file`` is named as clients see it, with its instance; None for a
    text, which is the item ``place`` (key and index) of the node's results. ``size`` in bytes, None
    until it is known."""

    id: str
    node_id: str
    name: str
    kind: str
    content_type: str
    file: FileName | None = None
    place: tuple[str, int] = ("", 0)
    size: int | None = None


def outputs_of(job_id: str, told: Any, secret: bytes) -> Iterator[Output]:
    """The outputs in what an entry of the history tells: node id → its results. MAX_OF_JOB at
    most, each made when it is asked for: 10,000 take 170 ms."""
    nodes = told.items() if isinstance(told, Mapping) else ()
    made = (one for node, results in nodes for one in node_outputs(job_id, node, results, secret))
    return islice(made, MAX_OF_JOB)


async def outputs_in_turns(outputs: Iterable[Output]) -> list[Output]:
    """``outputs``, which are made one after the other; after every FOUND_AT_ONCE of them others
    have their turn."""
    found: list[Output] = []
    for output in outputs:
        found.append(output)
        if len(found) % FOUND_AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


def node_outputs(job_id: str, node_id: str, results: Any, secret: bytes) -> Iterator[Output]:
    """The outputs in the results of one node. Their ids are the same whenever they are told, and
    nobody can guess one without ``secret``."""
    for key, items in results.items() if isinstance(results, Mapping) else ():
        if key == "animated" or not isinstance(items, list):
            continue
        for index, item in enumerate(items):
            if isinstance(item, Mapping) and isinstance(item.get("filename"), str):
                yield _file(job_id, node_id, key, item, secret)
            elif isinstance(item, str) and key == "text":
                yield Output(
                    id=_id(secret, job_id, node_id, key, str(index)),
                    node_id=node_id,
                    name=f"{node_id}_{index}.txt",
                    kind="text",
                    content_type=TEXT,
                    place=(key, index),
                    size=len(item.encode("utf-8", "surrogatepass")),
                )


def text_of(told: Any, output: Output) -> str | None:
    """The text that ``output`` is, in what an entry of the history tells."""
    key, index = output.place
    try:
        text = told[output.node_id][key][index]
    except (IndexError, KeyError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _file(job_id: str, node_id: str, key: str, item: Mapping[str, Any], secret: bytes) -> Output:
    subfolder, kind = str(item.get("subfolder") or ""), str(item.get("type") or "output")
    file = file_at(item["filename"], subfolder, kind)
    content_type = media_type_of(file.filename)
    return Output(
        id=_id(secret, job_id, node_id, key, file.type, file.subfolder, file.filename),
        node_id=node_id,
        name=file.filename,
        kind=_kind(key, content_type),
        content_type=content_type,
        file=file,
    )


def _kind(key: str, content_type: str) -> str:
    """Nodes tell videos as images too, so the type of the file decides where it says it."""
    major = content_type.partition("/")[0]
    if key not in ("gifs", "latents") and major in _BY_TYPE:
        return major
    return _KINDS.get(key, "file")


def _id(secret: bytes, *parts: str) -> str:
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return str(uuid.UUID(bytes=digest(secret, text, sha256)[:16], version=4))
