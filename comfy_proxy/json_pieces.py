"""JSON written a piece at a time, with the same text as ``dumps_exact``. Pure.

However it is nested, and however many levels deep its long part is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from comfy_proxy.lenient_json import dumps_exact

MANY: Final = 200
"""So many short items of a list are one piece, at most."""
SHORT: Final = 256
"""Characters of a text that counts as short."""
_FEW: Final = 8
"""Items of a list or members of an object which is one piece if all of them are short."""
_TEXT_CHARS: Final = 8192
"""Characters of a long text that are one piece: 48 KB if each becomes an escape."""
_NOTHING: Final = object()
_Part = tuple[bytes, Any]
"""What stands before a value, and the value; _NOTHING if what stands before it was all."""


def written(data: Any, *, sort_keys: bool = False) -> Iterator[bytes]:
    """The pieces of the text, 50 KB at most, each made when it is asked for.

    ``sort_keys``: the same text for all objects that are equal.
    """
    opened: list[tuple[Iterator[_Part], bytes]] = []
    before, value = b"", data
    while True:
        if before:
            yield before
        if isinstance(value, str) and len(value) > SHORT:
            yield from _text(value)
        elif isinstance(value, dict | list) and value and (sort_keys or not _is_short_whole(value)):
            if isinstance(value, list):
                opened.append((_items(value, _is_plain if sort_keys else _is_short), b"]"))
            else:
                opened.append((_members(value, sort_keys), b"}"))
        elif value is not _NOTHING:
            yield dumps_exact(value)
        while opened:
            part = next(opened[-1][0], None)
            if part is not None:
                before, value = part
                break
            yield opened.pop()[1]
        else:
            return


def _text(text: str) -> Iterator[bytes]:
    yield b'"'
    for at in range(0, len(text), _TEXT_CHARS):
        yield dumps_exact(text[at : at + _TEXT_CHARS])[1:-1]
    yield b'"'


def _members(members: dict[str, Any], sort_keys: bool) -> Iterator[_Part]:
    before = b"{"
    for name in sorted(members) if sort_keys else members:
        value = members[name]
        if len(name) > SHORT:
            yield before, name
            yield b": ", value
        else:
            yield before + dumps_exact(name) + b": ", value
        before = b", "


def _items(items: list[Any], is_short: Callable[[Any], bool]) -> Iterator[_Part]:
    """Each item, and those that are short many at once."""
    before, at = b"[", 0
    while at < len(items):
        some = items[at : at + MANY]
        short = next((count for count, item in enumerate(some) if not is_short(item)), len(some))
        if short:
            yield before + dumps_exact(some[:short])[1:-1], _NOTHING
        else:
            yield before, some[0]
        before, at = b", ", at + (short or 1)


def _is_short(value: Any) -> bool:
    """A number, a word, a short text; a few of these in one bracket."""
    return _is_short_whole(value) if isinstance(value, dict | list) else _is_plain(value)


def _is_short_whole(value: dict[str, Any] | list[Any]) -> bool:
    if not value or len(value) > _FEW:
        return not value
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value))


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict | list):
        return not value
    return not isinstance(value, str) or len(value) <= SHORT
