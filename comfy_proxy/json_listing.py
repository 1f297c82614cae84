"""The items of a long JSON list, a few at a time, so that the event loop has its turn in between.

``json.loads`` of 50 MB takes half a second and more, in one call that no other thread interrupts:
in a thread it stops the event loop just the same. This module finds where each item begins and
ends, STEP_BYTES of text at a time; the caller reads these items, and keeps of them what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Any, Final

from comfy_proxy.json_scanner import BETWEEN, IN_SCALAR, IN_STRING, SKIPPED, STRING, nested
from comfy_proxy.lenient_json import loads_exact

STEP_BYTES: Final = 16_384
"""Bytes of text after which a step ends; to find and to read the items in it takes about 1 ms. An
item that is longer comes alone, and the caller has to read it in steps if it is to."""
Span = tuple[int, int]
"""Where an item begins and ends, in bytes of the text."""

FLAT_VALUE: Final = rb'(?>[^\s,:\[\]{}"]++|' + STRING + rb"|" + nested(2) + rb")"
"""A pattern for a value whose brackets are up to three deep."""
BLANKS = re.compile(rb"\s*+")
_ITEM = re.compile(rb"\s*+(" + FLAT_VALUE + rb")\s*+,", re.DOTALL)
_COMMA, _CLOSING, _OPENING = b",", b"]", (b"{", b"[")


class Listing:
    """The list ``text``; with a ``key``, the list that the object ``text`` has under that name.

    Go through :meth:`steps`; then ``rest`` has the object's other members, which are few and short.
    ``found`` tells whether there was a list at all.
    """

    def __init__(self, text: bytes, key: str | None = None) -> None:
        self._text = text
        self._key = key
        self.rest: dict[str, Any] = {}
        self.found = False

    def steps(self) -> Iterator[list[Span]]:
        """The items that ended in each step; an empty list if none did. There are none at all in
        an object without the list. Raises ValueError for a text that is no whole list or object."""
        at = end_of(BLANKS, self._text, 0)
        end = yield from (self._items(at) if self._key is None else self._members(at))
        if end_of(BLANKS, self._text, end) < len(self._text):
            raise ValueError("something stands behind the end")

    def _members(self, at: int) -> Generator[list[Span], None, int]:
        text = self._text
        if text[at : at + 1] != b"{":
            raise ValueError("is no JSON object")
        at = end_of(BLANKS, text, at + 1)
        while text[at : at + 1] == b'"':
            name_end = end_of(IN_STRING, text, at + 1) + 1
            name = loads_exact(text[at:name_end])
            start = end_of(BETWEEN, text, name_end)
            if name == self._key and text[start : start + 1] == b"[":
                end = yield from self._items(start)
            else:
                end = yield from _no_items(value_end(text, start))
                self.rest[name] = loads_exact(text[start:end])
            at = end_of(BETWEEN, text, end)
        if text[at : at + 1] != b"}":
            raise ValueError("the object does not end")
        return at + 1

    def _items(self, at: int) -> Generator[list[Span], None, int]:
        text = self._text
        if text[at : at + 1] != b"[":
            raise ValueError("is no JSON list")
        self.found = True
        at = end_of(BLANKS, text, at + 1)
        if text[at : at + 1] == _CLOSING:
            return at + 1
        while True:
            spans, at = self._short_ones(at)
            if spans:
                yield spans
            at = end_of(BLANKS, text, at)
            end = yield from _no_items(value_end(text, at))
            if end == at:
                raise ValueError("an item is missing")
            yield [(at, end)]
            at = end_of(BLANKS, text, end)
            if text[at : at + 1] == _CLOSING:
                return at + 1
            if text[at : at + 1] != _COMMA:
                raise ValueError("the list does not end")
            at += 1

    def _short_ones(self, at: int) -> tuple[list[Span], int]:
        """The items from ``at`` on that end within one step, each with its comma, and where the
        next one begins."""
        limit, spans, item = min(len(self._text), at + STEP_BYTES), [], _ITEM.match
        while (found := item(self._text, at, limit)) is not None:
            spans.append(found.span(1))
            at = found.end()
        return spans, at


def end_of(pattern: re.Pattern[bytes], text: bytes, at: int, limit: int | None = None) -> int:
    """Where a match of ``pattern`` that begins at ``at`` ends. For patterns that match an empty
    text as well."""
    found = pattern.match(text, at, len(text) if limit is None else limit)
    assert found is not None
    return found.end()


def value_end(text: bytes, at: int) -> Generator[int, None, int]:
    """The end of the value that begins at ``at``; beyond the text if it is cut off. Yields after
    each step how many bytes it went through."""
    if text[at : at + 1] == b'"':
        return end_of(IN_STRING, text, at + 1) + 1
    if text[at : at + 1] not in _OPENING:
        return end_of(IN_SCALAR, text, at)
    depth, begin = 0, at
    while at < len(text):
        byte = text[at : at + 1]
        if byte in _OPENING:
            depth += 1
        elif byte in (b"}", b"]"):
            depth -= 1
            if not depth:
                return at + 1
        elif byte == b'"':  # of a string that goes on beyond the step, and is not long as a rule
            at = end_of(IN_STRING, text, at + 1)
        at += 1
        if at >= begin + STEP_BYTES:
            yield at - begin
            begin = at
        at = end_of(SKIPPED, text, at, begin + STEP_BYTES)
    return at


def _no_items(steps: Generator[int, None, int]) -> Generator[list[Span], None, int]:
    """The same steps, in each of which no item ended."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return int(end.value)
        yield []
