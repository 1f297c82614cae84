"""Makes the index of an answer to ``/object_info``, in steps between which the loop has its turn.

A thread would hold the interpreter lock meanwhile, and with it the loop. Most of an answer is known
already, be it from the one before or from another instance: a member that is the same byte for byte
is taken over without being looked into. The rest is scanned for its ends, and read once, class by
class, for what the index tells of all.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from loguru import logger

from comfy_proxy.cluster.object_info.class_table import ClassTable
from comfy_proxy.cluster.object_info.node_class import NodeClass
from comfy_proxy.json_scanner import BETWEEN, IN_SCALAR, IN_STRING, MAX_LEAF_BYTES, SKIPPED
from comfy_proxy.lenient_json import loads, loads_exact

STEP_BYTES = 16_384
"""Bytes of text after which a step ends; it takes up to 1 ms. One class is read at once, however
long it is: 13 ms for a megabyte, which is a list of 20,000 files."""
_COMPARED = 16
"""So many bytes that are only compared count as one that is scanned and read."""
_BLANKS = re.compile(rb"\s*+")

Steps = Generator[int, None, None]
"""Yields after each step the bytes that it went through."""


class TableMaker:
    """Makes ``table`` of the text ``body``: go through :meth:`steps`, then it is done.
    ``members`` counts what is no class too.

    ``before`` is a table that may have many of the same classes. ``source`` is named in the log.
    """

    def __init__(self, body: bytes, before: ClassTable | None, source: str) -> None:
        self.table = ClassTable(body)
        self._body = body
        self._before = ClassTable(b"") if before is None else before
        self._names = list(self._before)
        self._expected = 0  # the place in `before` of the class that probably comes next
        self._source = source
        self.members = 0
        self._end = 0  # of the last member
        self._is_native = True
        self._done = 0  # bytes since the last step ended

    def steps(self) -> Steps:
        """Raises ValueError for a text that is no whole JSON object."""
        at = _end_of(_BLANKS, self._body, 0)
        if self._body[at : at + 1] != b"{":
            raise ValueError("is no JSON object")
        at += 1
        while self._body[(at := _end_of(BETWEEN, self._body, at)) : at + 1] == b'"':
            at = self._take_over(at) or (yield from self._read(at))
            self._end = at
            self.members += 1
            if self._done >= STEP_BYTES:
                yield self._done
                self._done = 0
        self._finish(at)

    def _finish(self, at: int) -> None:
        if self._body[at : at + 1] != b"}" or _end_of(BETWEEN, self._body, at + 1) < len(
            self._body
        ):
            raise ValueError("is no JSON object")
        self._is_native &= self._body[self._end :] == (b"}" if self.members else b"{}")
        is_all = self.members == len(self.table)  # none was left out, none is there twice
        self.table.is_native = self._is_native and is_all and self._body.isascii()

    def _take_over(self, at: int) -> int | None:
        """The end of the member at ``at`` if it is the one that is expected, else None."""
        number = self._expected
        if number == len(self._names):
            return None
        same = self._before.member(number)
        if not self._body.startswith(same, at):
            return None
        self.table.add_same(self._names[number], self._before, number, at)
        self._look_around(at, self.table.start(self._names[number]))
        self._expected = number + 1
        self._done += len(same) // _COMPARED + 1
        return at + len(same)

    def _read(self, at: int) -> Generator[int, None, int]:
        """The end of the member at ``at``, which is noted if it is a class."""
        name_end = _end_of(IN_STRING, self._body, at + 1) + 1
        start = _end_of(BETWEEN, self._body, name_end)
        end = yield from _value_end(self._body, start)
        self._look_around(at, start)
        name = _name(self._body[at:name_end])
        node_class = None if name is None else _node_class(name, self._body[start:end])
        if name is None or node_class is None:
            logger.debug("{} of {} is no node class", name, self._source)
            self._done += end - at
            return end
        self._done += end - at
        if self._done >= STEP_BYTES:  # what is to be noted of a long list is a step of its own
            yield self._done
            self._done = 0
        self.table.add(node_class, at, start, end)
        if (number := self._before.number(name)) is not None:
            self._expected = number + 1
        return end

    def _look_around(self, name_start: int, start: int) -> None:
        """Whether ComfyUI itself would write it so, with these blanks."""
        between = b", " if self.members else b"{"
        self._is_native &= self._body[self._end : name_start] == between
        self._is_native &= self._body[start - 3 : start] == b'": '


def _end_of(pattern: re.Pattern[bytes], text: bytes, at: int, limit: int | None = None) -> int:
    """Where a match that begins at ``at`` ends; the patterns here match nothing too."""
    found = pattern.match(text, at, len(text) if limit is None else limit)
    assert found is not None
    return found.end()


def _value_end(text: bytes, at: int) -> Generator[int, None, int]:
    """The end of the value that begins at ``at``; beyond the text if it is cut off."""
    if text[at : at + 1] == b'"':
        return _end_of(IN_STRING, text, at + 1) + 1
    if text[at : at + 1] not in (b"{", b"["):
        return _end_of(IN_SCALAR, text, at)
    depth, begin = 0, at
    while at < len(text):
        byte = text[at : at + 1]
        if byte in (b"{", b"["):
            depth += 1
        elif byte in (b"}", b"]"):
            depth -= 1
            if not depth:
                return at + 1
        elif byte == b'"':  # of a string that goes on beyond the step, and is not long as a rule
            at = _end_of(IN_STRING, text, at + 1)
        at += 1
        if at >= begin + STEP_BYTES:
            yield at - begin
            begin = at
        at = _end_of(SKIPPED, text, at, begin + STEP_BYTES)
    return at


def _name(text: bytes) -> str | None:
    """The name that is written so; None for one that is too long or cannot be read."""
    try:
        name = loads(text) if len(text) <= MAX_LEAF_BYTES else None
    except ValueError:
        return None
    return name if isinstance(name, str) else None


def _node_class(name: str, text: bytes) -> NodeClass | None:
    try:
        info = loads_exact(text)
    except ValueError:
        return None
    return NodeClass(name, info) if isinstance(info, dict) else None
