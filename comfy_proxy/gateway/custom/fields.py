"""The fields of a request: of its query and of its body, read as text and changed in place. Pure.

A body is read if it is JSON, a form, or a form with files, of at most ``MAX_READ_BYTES``; of any
other nothing is known. JSON in a field of a form is read too: cg-image-filter sends its answers so.
What is changed keeps the form that it had, and all the rest its bytes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_plus

from comfy_proxy.gateway.exchange.target import quoted
from comfy_proxy.json_listing import STEP_BYTES
from comfy_proxy.json_steps import dumps_long, loads_long
from comfy_proxy.lenient_json import loads

MAX_READ_BYTES: Final = 1 << 20
"""Of a body; a longer one is sent on unread. Reading a mebibyte of JSON takes some 10 ms, and 50
where somebody has made it to be slow."""
MAX_FIELDS: Final = 256
"""So many fields of one request are looked at, the first ones."""
MAX_TEXT: Final = 1024
"""Characters of a value; a longer one (a picture, a text) tells nobody apart, and is left out."""

LONG: Final = 8
"""Characters of a word without a digit from which on it may be somebody's name."""
_ID_NAME = re.compile(
    r"(?:^|[_-])(?:u?u?ids?|nodes?|key|unique)(?:$|[_-])|(?:I[dD]s?|Node|Key)$|^node"
)

Field = tuple[str, str]
"""The name of a field, and its value as text. In JSON the name is the nearest key around it."""
Change = Callable[[str, str], str]
"""Name and value → the value that is sent in its place."""

_FILE_PART = re.compile(rb"\bfilename\*?\s*=", re.IGNORECASE)
_PART_NAME = re.compile(rb'\bname="([^"]*)"')


def is_telling(name: str, value: str) -> bool:
    """Whether the value of a field of that name may tell one thing from another.

    It is long or has a digit in it; a mere number counts only where the name speaks of an id, a
    node or a key. ``temp`` and ``512`` are in every other request.
    """
    if value.lstrip("-").isdecimal():
        return _ID_NAME.search(name) is not None
    return len(value) >= LONG or any(one.isdigit() for one in value)


def query_fields(target: str) -> list[Field]:
    """The parameters of ``target``, a path with or without a query, decoded."""
    return _pairs(target.partition("?")[2])


def changed_query(target: str, change: Change) -> str:
    """``target`` with the values that ``change`` makes of those in its query."""
    path, mark, query = target.partition("?")
    return f"{path}{mark}{_changed_pairs(query, change)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """What a body says. ``change`` gives its bytes with other values."""

    fields: list[Field] = field(default_factory=list)
    change: Callable[[Change], bytes]


def body_fields(raw: bytes, content_type: str) -> Fields:
    """The fields of ``raw``; none of what is no form and no JSON, whatever its type says."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return _of_form(raw)
    if kind == "multipart/form-data":
        return _of_parts(raw, content_type)
    try:
        document = loads(raw) if len(raw) <= STEP_BYTES else loads_long(raw)
    except ValueError:
        return Fields(change=lambda change: raw)

    def changed(change: Change) -> bytes:
        try:
            return dumps_long(_changed_json("", loads_long(raw), change))
        except (RecursionError, ValueError):
            return raw  # so deep that no node wants it: it is the instance's to refuse

    return Fields(fields=list(json_fields(document)), change=changed)


def json_fields(document: Any) -> Iterator[Field]:
    """The texts and whole numbers of a JSON document, those outside first."""
    left: list[tuple[str, Any]] = [("", document)]
    count = 0
    while left and count < MAX_FIELDS:
        inner: list[tuple[str, Any]] = []
        for key, value in left:
            if isinstance(value, dict):
                inner += [(str(name), item) for name, item in list(value.items())[:MAX_FIELDS]]
            elif isinstance(value, list):
                inner += [(key, item) for item in value[:MAX_FIELDS]]
            elif (text := _text(value)) is not None and count < MAX_FIELDS:
                count += 1
                yield key, text
        left = inner[: 4 * MAX_FIELDS]


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value if 0 < len(value) <= MAX_TEXT else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 1 << 64 else None
    return None


def _changed_json(key: str, value: Any, change: Change) -> Any:
    if isinstance(value, dict):
        return {name: _changed_json(str(name), item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_changed_json(key, item, change) for item in value]
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return change(key, value)
    return value


def _of_form(raw: bytes) -> Fields:
    text = raw.decode(errors="surrogateescape")  # encoded it is ASCII; else ComfyUI reads UTF-8
    return Fields(
        fields=list(_with_json(_pairs(text))),
        change=lambda change: _changed_pairs(text, change).encode(errors="surrogateescape"),
    )


def _of_parts(raw: bytes, content_type: str) -> Fields:
    """Of a form with files its texts, among the first parts of it."""
    found = re.search(r'boundary="?([^";]+)"?', content_type, re.IGNORECASE)
    if found is None:
        return Fields(change=lambda change: raw)
    border = b"--" + found[1].encode("latin-1", "replace")
    parts = raw.split(border, MAX_FIELDS)
    texts = [(at, *text) for at, part in enumerate(parts[:-1]) if (text := _part_text(part))]

    def changed(change: Change) -> bytes:
        made = list(parts)
        for at, name, value in texts:
            if (new := change(name, value)) != value:
                head = made[at].partition(b"\r\n\r\n")[0]
                made[at] = head + b"\r\n\r\n" + new.encode() + b"\r\n"
        return border.join(made)

    return Fields(fields=list(_with_json(text[1:] for text in texts)), change=changed)


def _with_json(pairs: Iterable[Field]) -> Iterator[Field]:
    """The texts of a form, and what stands in those that are JSON objects."""
    for name, value in itertools.islice(pairs, MAX_FIELDS):
        if value.startswith("{") and (read := body_fields(_bytes(value), "").fields):
            yield from read
        elif 0 < len(value) <= MAX_TEXT:
            yield name, value


def _bytes(value: str) -> bytes:
    """As they came, also where they are no UTF-8."""
    return value.encode(errors="surrogateescape")


def _part_text(part: bytes) -> Field | None:
    head, blank, value = part.partition(b"\r\n\r\n")
    name = _PART_NAME.search(head)
    if not blank or name is None or _FILE_PART.search(head) or not value.endswith(b"\r\n"):
        return None
    if not 2 < len(value) <= MAX_READ_BYTES:
        return None
    try:
        return name[1].decode(), value[:-2].decode()
    except UnicodeDecodeError:
        return None


def _pairs(query: str) -> list[Field]:
    """The first ones, decoded."""
    parts = query.split("&", MAX_FIELDS)[:MAX_FIELDS]
    pairs = (part.partition("=") for part in parts if part)
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def _changed_pairs(query: str, change: Change) -> str:
    parts = query.split("&", MAX_FIELDS)
    for index, part in enumerate(parts[:MAX_FIELDS]):
        name, equals, encoded = part.partition("=")
        value = unquote_plus(encoded)
        new = change(unquote_plus(name), value) if equals and len(value) <= MAX_TEXT else value
        if new != value:
            parts[index] = f"{name}={quoted(new, '/')}"
    return "&".join(parts)
