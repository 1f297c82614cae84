"""What we need of a large body of ``POST /prompt``, found in a thread without parsing all of it.

A body of 95 MB may be one picture as base64 or ten million lists: parsed as a whole it took up to
31 s, in which nothing else had a turn, and 5 GB. What we need (ids, number, classes, names of files
and models, links) is small. So where larger values begin and end is looked for
(``json_scanner.py``), ``null`` is put in their place, and the rest is parsed. The body itself goes
on byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.json_scanner import ANY, JsonScanner, Shape, Value

LARGE_BYTES: Final = 2**20
"""Bodies over so many bytes are large; up to it parsing takes some 20 ms at most."""
MAX_VALUE_BYTES: Final = 4096
"""Bytes of a value of an input, a member of a node or of the body that is looked at. A longer one
is ``null`` to us: no name of a file is so long."""
MAX_REST_BYTES: Final = 2**20
"""Bytes that may be left to parse. Beyond, the body is one that we cannot read: it goes to one
instance and stays there."""
MAX_FOUND_BYTES: Final = 16 * 2**20
"""Bytes of memory for what is found on the way (some 80,000 values). Beyond as above."""
_PIECE_BYTES: Final = (
    16_384  # scanned at once: a thread that scans more keeps the event loop waiting
)

_SHAPE: Final[Shape] = {
    b"prompt": {ANY: {b"inputs": {ANY: {}}, ANY: {}}},
    b"extra_data": {b"client_id": {}},
    ANY: {},
}


def outline(file: BinaryIO) -> dict[str, Any] | None:
    """The JSON object in ``file``, which is UTF-8, with ``null`` for what is large in it; a large
    ``extra_data`` has its ``client_id`` only. None for what we cannot read. Takes a thread as long
    as a second for each 10 MB or so."""
    scanner = JsonScanner(_SHAPE)
    scanner.max_found_bytes = MAX_FOUND_BYTES
    while piece := file.read(_PIECE_BYTES):
        scanner.feed(piece)
        if scanner.failed:
            return None
    root = scanner.result()
    if root is None or not root.is_object:
        return None
    cuts = list(_large(root))
    if root.end - sum(one.end - one.start for one in cuts) > MAX_REST_BYTES:
        return None
    document = prompt_body.document(b"".join(_without(file, cuts, root.end)))
    if document is not None:
        _put_back(document, root, cuts, file)
    return document


def _put_back(document: dict[str, Any], root: Value, cuts: list[Value], file: BinaryIO) -> None:
    """What a ``client_id`` is, and whether ``extra_data`` is an object, though they are large."""
    for name in ("client_id", "extra_data"):
        value = root.get(name.encode())
        if value in cuts:
            document[name] = _empty(value, file)
    extra = document.get("extra_data")
    client_id = value.get(b"client_id") if value is not None else None
    if isinstance(extra, dict) and value in cuts and client_id is not None:
        extra["client_id"] = client_id.data() if client_id.text else _empty(client_id, file)


def _empty(value: Value, file: BinaryIO) -> Any:
    """An object or list of that kind with nothing in it; None for anything else."""
    file.seek(value.start)
    return {b"{": {}, b"[": []}.get(file.read(1))


def _large(root: Value) -> Iterator[Value]:
    """The values that are left out, in their order."""
    for member in root.members or ():
        if member.key != b"prompt" or member.members is None:
            yield from _if_large(member)
            continue
        for node in member.members:
            yield from _large_of_node(node)


def _large_of_node(node: Value) -> Iterator[Value]:
    if node.members is None:
        yield from _if_large(node)
        return
    for part in node.members:
        for value in (part,) if part.members is None else part.members:
            yield from _if_large(value)


def _if_large(value: Value) -> Iterator[Value]:
    if value.end - value.start > MAX_VALUE_BYTES:
        yield value


def _without(file: BinaryIO, cuts: list[Value], end: int) -> Iterator[bytes]:
    at = 0
    for cut in cuts:
        file.seek(at)
        yield file.read(cut.start - at)
        yield b"null"
        at = cut.end
    file.seek(at)
    yield file.read(end - at)
