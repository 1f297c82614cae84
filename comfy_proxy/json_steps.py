"""Long JSON read and written in steps, as :mod:`lenient_json` does it at once.

For the few long documents that are wanted as objects: ``json.loads`` and ``json.dumps`` hold the
interpreter's lock for the whole of a call, 10 ms and more for a megabyte, also in a thread.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Final, TypeVar

from comfy_proxy.json_listing import BLANKS, FLAT_VALUE, STEP_BYTES, end_of
from comfy_proxy.json_scanner import IN_SCALAR, IN_STRING, JsonScanner
from comfy_proxy.lenient_json import dumps_exact, loads_exact

T = TypeVar("T")
Steps = Generator[int, None, T]
"""Yields after each step how many bytes it went through."""

MANY: Final = 200
"""So many items of a list are written in one step, at most."""
VALUE_BYTES: Final = 128
"""Bytes of text that take as long as what is done for a value besides: some 10 microseconds."""
_VALUE = re.compile(FLAT_VALUE, re.DOTALL)
_ITEMS = re.compile(rb"(?>(?:\s*+" + FLAT_VALUE + rb"\s*+,)*)", re.DOTALL)
_COLON = re.compile(rb"\s*+:")
_DEPTH: Final = 4
"""Only so many levels deep lists and objects are written in steps; what is in them further down is
written at once."""


def loads_in_steps(text: bytes) -> Steps[Any]:
    """The value of a JSON text as ``loads_exact`` reads it, STEP_BYTES or so at a time.

    A text of up to STEP_BYTES is read at once, and so is a single string, however long it is.
    Raises ValueError.
    """
    if len(text) <= STEP_BYTES:
        return loads_exact(text)
    reader = _Reader(text)
    try:
        value = yield from reader.value()
    except RecursionError as error:
        raise ValueError("The JSON is nested too deeply.") from error
    if reader.blanks() < len(text):
        raise ValueError("Something stands behind the end of the JSON.")
    return value


def loads_long(text: bytes) -> Any:
    """The same for a thread, which lets go of the interpreter's lock between two steps."""
    steps = loads_in_steps(text)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def dumps_long(data: Any) -> bytes:
    """As ``dumps_exact``, for a thread: no long list is written in one step."""
    return b"".join(_written(data, _DEPTH))


async def written_in_turns(data: Any) -> list[bytes]:
    """The same in pieces; between two steps the event loop has its turn."""
    return await made_in_turns(_written(data, _DEPTH))


async def made_in_turns(pieces: Iterable[bytes]) -> list[bytes]:
    """All of ``pieces``, each of which is made when it is asked for; after every STEP_BYTES of them
    the event loop has its turn."""
    made, done = [], 0
    for piece in pieces:
        made.append(piece)
        done += len(piece)
        if done >= STEP_BYTES:
            done = 0
            await asyncio.sleep(0)
    return made


async def in_turns(steps: Steps[T]) -> T:
    """What ``steps`` come to; between two of them the event loop has its turn."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value
        await asyncio.sleep(0)


async def feed(scanner: JsonScanner, piece: bytes) -> None:
    """Give ``piece`` to ``scanner``, STEP_BYTES at a time, with a turn of the loop after each.

    To scan a megabyte at once takes 100 ms, and a piece may be as long as all that has come since
    the last one.
    """
    if len(piece) <= STEP_BYTES // 4:
        scanner.feed(piece)
        return
    for at in range(0, len(piece), STEP_BYTES):
        scanner.feed(piece[at : at + STEP_BYTES])
        if scanner.failed:
            return
        await asyncio.sleep(0)


class _Reader:
    """Reads one text from ``at`` on.

    A step ends when it went through half of STEP_BYTES or more, each value that is read by itself
    counted as VALUE_BYTES; and not at each value: as many readers pass its end on as there are
    brackets around it, and a mebibyte of ``[[[[0]]]],`` in 400 brackets took 12 s.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0
        self._begun = 0  # where the step did
        self._values = 0  # that were read in it by themselves

    def blanks(self) -> int:
        """Go on to what is no blank."""
        self.at = end_of(BLANKS, self.text, self.at)
        return self.at

    def value(self) -> Steps[Any]:
        self._values += 1
        text, start = self.text, self.blanks()
        found = _VALUE.match(text, start, start + STEP_BYTES)
        if found is None and text[start : start + 1] in (b"[", b"{"):
            self.at += 1
            return (yield from (self._items() if text[start] == 0x5B else self._members()))
        if found is None or text[start : start + 1] not in (b"[", b"{"):
            # A string, a number or a word, which may end after the step.
            is_string = text[start : start + 1] == b'"'
            end = end_of(IN_STRING if is_string else IN_SCALAR, text, start + is_string) + is_string
        else:
            end = found.end()
        self.at = end
        return loads_exact(text[start:end])

    def _items(self) -> Steps[list[Any]]:
        items: list[Any] = []
        if self.text[self.blanks() : self.at + 1] == b"]":
            self.at += 1
            return items
        while True:
            items += self._short_ones(b"[", b"]")
            if done := self._step():
                yield done
            items.append((yield from self.value()))
            if self._ends(b"]"):
                return items

    def _members(self) -> Steps[dict[str, Any]]:
        members: dict[str, Any] = {}
        if self.text[self.blanks() : self.at + 1] == b"}":
            self.at += 1
            return members
        while True:
            start = self.blanks()
            if self.text[start : start + 1] != b'"':
                raise ValueError("A name is missing in the JSON.")
            self.at = end_of(IN_STRING, self.text, start + 1) + 1
            name = loads_exact(self.text[start : self.at])
            colon = _COLON.match(self.text, self.at)
            if colon is None:
                raise ValueError("A colon is missing in the JSON.")
            self.at = colon.end()
            members[name] = yield from self.value()
            if done := self._step():
                yield done
            if self._ends(b"}"):
                return members

    def _short_ones(self, opening: bytes, closing: bytes) -> list[Any]:
        """The values from here on that end within this step, each with its comma."""
        start, limit = self.at, max(self.at, self._begun + STEP_BYTES)
        end = end_of(_ITEMS, self.text, start, limit)
        if end == start:
            return []
        self.at = end
        read: list[Any] = loads_exact(opening + self.text[start : end - 1] + closing)
        return read

    def _step(self) -> int:
        """How many bytes the step went through, if that is enough for one; else 0."""
        done = self.at - self._begun
        if 2 * (done + self._values * VALUE_BYTES) < STEP_BYTES:
            return 0
        self._begun, self._values = self.at, 0
        return done

    def _ends(self, closing: bytes) -> bool:
        """Step over what follows a value. True if it is ``closing``, False if it is a comma; raises
        ValueError if it is neither."""
        byte = self.text[self.blanks() : self.at + 1]
        self.at += 1
        if byte not in (b",", closing):
            raise ValueError("A comma is missing in the JSON.")
        return byte == closing


def _written(data: Any, depth: int) -> Iterator[bytes]:
    if isinstance(data, dict) and data and depth:
        before = b"{"
        for name, value in data.items():
            yield before + dumps_exact(name) + b": "
            yield from _written(value, depth - 1)
            before = b", "
        yield b"}"
    elif isinstance(data, list) and len(data) > MANY:
        before = b"["
        for at in range(0, len(data), MANY):
            yield before + dumps_exact(data[at : at + MANY])[1:-1]
            before = b", "
        yield b"]"
    elif isinstance(data, list) and data and depth:
        before = b"["
        for value in data:
            yield before
            yield from _written(value, depth - 1)
            before = b", "
        yield b"]"
    else:
        yield dumps_exact(data)
