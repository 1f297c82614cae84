"""Makes the index of an answer to ``/object_info``, in steps between which the loop has its turn.

A thread would hold the interpreter lock meanwhile, and with it the loop. Most of an answer is known
already, be it from the one before or from another instance: a member that is the same byte for byte
is taken over without being looked into. The rest is scanned for its ends, and read once, class by
class, for what the index tells of all. A step is ``STEP_BYTES`` of text.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from itertools import islice

from loguru import logger

from comfy_proxy.cluster.object_info.class_table import ClassTable
from comfy_proxy.cluster.object_info.node_class import NodeClass
from comfy_proxy.json_listing import BLANKS, STEP_BYTES, end_of, value_end
from comfy_proxy.json_scanner import BETWEEN, IN_STRING, MAX_LEAF_BYTES
from comfy_proxy.json_steps import loads_in_steps
from comfy_proxy.lenient_json import loads

NOTED = 2_000
"""So many choices of a class are noted in one step, at most: they may be tens of thousands."""
_COMPARED = 16
"""So many bytes that are only compared count as one that is scanned and read."""

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
        at = end_of(BLANKS, self._body, 0)
        if self._body[at : at + 1] != b"{":
            raise ValueError("is no JSON object")
        at += 1
        while self._body[(at := end_of(BETWEEN, self._body, at)) : at + 1] == b'"':
            at = self._take_over(at) or (yield from self._read(at))
            self._end = at
            self.members += 1
            if self._done >= STEP_BYTES:
                yield self._done
                self._done = 0
        self._finish(at)

    def _finish(self, at: int) -> None:
        if self._body[at : at + 1] != b"}" or end_of(BETWEEN, self._body, at + 1) < len(self._body):
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
        name_end = end_of(IN_STRING, self._body, at + 1) + 1
        start = end_of(BETWEEN, self._body, name_end)
        end = yield from value_end(self._body, start)
        self._look_around(at, start)
        name = _name(self._body[at:name_end])
        node_class = None
        if name is not None:
            node_class = yield from _node_class(name, self._body[start:end])
        if name is None or node_class is None:
            logger.debug("{} of {} is no node class", name, self._source)
            self._done += end - at
            return end
        self._done += end - at
        choices, texts = array("q"), map(hash, node_class.texts())
        while some := tuple(islice(texts, NOTED)):
            choices.extend(some)
            if len(some) == NOTED:
                yield STEP_BYTES
        self.table.add(node_class, at, start, end, choices)
        if (number := self._before.number(name)) is not None:
            self._expected = number + 1
        return end

    def _look_around(self, name_start: int, start: int) -> None:
        """Whether ComfyUI itself would write it so, with these blanks."""
        between = b", " if self.members else b"{"
        self._is_native &= self._body[self._end : name_start] == between
        self._is_native &= self._body[start - 3 : start] == b'": '


def _name(text: bytes) -> str | None:
    """The name that is written so; None for one that is too long or cannot be read."""
    try:
        name = loads(text) if len(text) <= MAX_LEAF_BYTES else None
    except ValueError:
        return None
    return name if isinstance(name, str) else None


def _node_class(name: str, text: bytes) -> Generator[int, None, NodeClass | None]:
    try:
        info = yield from loads_in_steps(text)
    except ValueError:
        return None
    return NodeClass(name, info) if isinstance(info, dict) else None
