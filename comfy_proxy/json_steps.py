"""Long JSON read and written in steps, as :mod:`lenient_json` does it at once.

For the few long documents that are wanted as objects: ``json.loads`` and ``json.dumps`` hold the
interpreter's lock for the whole of a call, 10 ms and more for a megabyte, also in a thread.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, TypeVar

from comfy_proxy.json_listing import BLANKS, FLAT_VALUE, STEP_BYTES, end_of
from comfy_proxy.json_pieces import written
from comfy_proxy.json_scanner import IN_SCALAR, IN_STRING, JsonScanner
from comfy_proxy.json_strings import pieces_of_string
from comfy_proxy.lenient_json import loads_exact

T = TypeVar("T")
Steps = Generator[int, None, T]
"""Yields after each step how many bytes it went through."""

VALUE_BYTES: Final = 128
"""Bytes of text that take as long as what is done for a value besides: some 10 microseconds."""
_VALUE = re.compile(FLAT_VALUE, re.DOTALL)
_ITEMS = re.compile(rb"(?>(?:\s*+" + FLAT_VALUE + rb"\s*+,)*)", re.DOTALL)
MAX_BLANKS: Final = 2**20
"""Bytes of blanks in a row. A text with more of them is refused: 16 MB took 30 ms."""


def loads_in_steps(text: bytes, long_text: Callable[[list[str]], Any] = "".join) -> Steps[Any]:
    """The value of a JSON text as ``loads_exact`` reads it, STEP_BYTES or so at a time.

    A text of up to STEP_BYTES is read at once. ``long_text`` makes the value of a string that is
    longer than that out of its parts: to join 100 MB of them takes 50 ms. Raises ValueError, also
    for a number of more than STEP_BYTES and for more than MAX_BLANKS in a row.
    """
    if len(text) <= STEP_BYTES:
        return loads_exact(text)
    reader = _Reader(text, long_text)
    try:
        value = yield from reader.value()
    except RecursionError as error:
        raise ValueError("The JSON is nested too deeply.") from error
    if reader.blanks() < len(text):
        raise ValueError("Something stands behind the end of the JSON.")
    return value


def loads_long(text: bytes, long_text: Callable[[list[str]], Any] = "".join) -> Any:
    """The same for a thread, which lets go of the interpreter's lock between two steps."""
    steps = loads_in_steps(text, long_text)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def dumps_long(data: Any) -> bytes:
    """As ``dumps_exact``, for a thread: nothing long is written in one step."""
    return b"".join(written(data))


async def written_in_turns(data: Any) -> list[bytes]:
    """The same in pieces; between two steps the event loop has its turn."""
    return await made_in_turns(written(data))


async def made_in_turns(pieces: Iterable[bytes]) -> list[bytes]:
    """All of ``pieces``, each of which is made when it is asked for; after every STEP_BYTES,
    each piece counted as VALUE_BYTES more than it has, the event loop has its turn."""
    made, done = [], 0
    for piece in pieces:
        made.append(piece)
        done += len(piece) + VALUE_BYTES
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

    def __init__(self, text: bytes, long_text: Callable[[list[str]], Any]) -> None:
        self.text = text
        self._long_text = long_text
        self.at = 0
        self._begun = 0  # where the step did
        self._values = 0  # that were read in it by themselves

    def blanks(self) -> int:
        """Go on to what is no blank."""
        end = end_of(BLANKS, self.text, self.at, self.at + MAX_BLANKS)
        if end == self.at + MAX_BLANKS:
            raise ValueError("The JSON has too many blanks in a row.")
        self.at = end
        return end

    def value(self) -> Steps[Any]:
        self._values += 1
        text, start = self.text, self.blanks()
        first = text[start : start + 1]
        if first == b'"':
            return (yield from self._string(self._long_text))
        if first in (b"[", b"{"):
            found = _VALUE.match(text, start, start + STEP_BYTES)
            if found is None:
                self.at += 1
                return (yield from (self._items() if first == b"[" else self._members()))
            self.at = found.end()
        else:
            self.at = end_of(IN_SCALAR, text, start, start + STEP_BYTES + 1)
            if self.at > start + STEP_BYTES:
                raise ValueError("A number in the JSON is too long.")
        return loads_exact(text[start : self.at])

    def _string(self, long_text: Callable[[list[str]], Any]) -> Steps[Any]:
        start = self.at
        end = end_of(IN_STRING, self.text, start + 1, start + STEP_BYTES)
        if self.text[end : end + 1] == b'"':
            self.at = end + 1
            return loads_exact(self.text[start : self.at])
        parts, pieces = [], pieces_of_string(self.text, start + 1)
        while True:
            try:
                parts.append(next(pieces))
            except StopIteration as found:
                self.at = found.value + 1
                break
            yield STEP_BYTES
        self._begun, self._values = self.at, 0
        return long_text(parts)

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
            name = yield from self._string("".join)
            if self.text[self.blanks() : self.at + 1] != b":":
                raise ValueError("A colon is missing in the JSON.")
            self.at += 1
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
