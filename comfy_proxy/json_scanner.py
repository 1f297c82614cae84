"""Where the parts of a JSON text begin and end, found while the text comes in. Pure, no I/O.

For texts of any size: a queue or a history holds whole graphs, which may have pictures as base64 in
them. Only the few small values that a :data:`Shape` names are collected; all else is stepped over
and can be passed on byte for byte. It need not be valid there: NaN, lone surrogates and bytes that
are not UTF-8 do no harm.

Libraries were looked at first: ``ijson`` (yajl) and ``json-stream`` refuse NaN or give no
positions; ``msgspec.Raw`` wants the whole text in memory, as UTF-8 and without NaN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from comfy_proxy.lenient_json import loads

ANY: Final = object()
"""In a :data:`Shape`: every member that is not named, every item."""

Shape = Mapping[object, "Shape"]
"""The parts to find: by member name (bytes as in the text, without quotes), by index, or ANY. Each
leads to the parts to find in it; ``{}``: none."""

TEXT: Final[Shape] = {ANY: {}}
"""A value whose own text is kept, whatever it is; its parts are not looked for."""

MAX_LEAF_BYTES = 65_536
"""Bytes of a name, string or number that are kept. A longer one is stepped over: its ``text`` (a
name's ``key``) is None. What the shape calls TEXT is kept however long it is."""

MAX_FOUND_BYTES = 512 * 2**20
"""Bytes of memory for all that is found: the texts that are kept, and PART_BYTES for each part. A
text with more to find has no result: 10 MB of ``[0,0,0,…`` took 1 GB."""
PART_BYTES = 200  # counted for one Value

# A group is repeated as (?>(?:…)*) and not as (?:…)*+, which means the same: Python before 3.11.5
# does not go back to where a last, failed repetition of (?:…)*+ began (gh-106052).
_UNQUOTED = rb'[^"\\]*+(?>(?:\\.[^"\\]*+)*)'
STRING = rb'"' + _UNQUOTED + rb'"'
_FLAT = rb'[^"\[\]{}]++|' + STRING


def nested(depth: int) -> bytes:
    """What contains brackets up to ``depth`` deep: most of a graph is stepped over at once."""
    inner = _FLAT if depth == 0 else _FLAT + rb"|" + nested(depth - 1)
    return rb"[\[{](?>(?:" + inner + rb")*)[\]}]"


SKIPPED = re.compile(rb"(?>(?:" + _FLAT + rb"|" + nested(2) + rb")*)", re.DOTALL)
IN_STRING = re.compile(_UNQUOTED, re.DOTALL)
BETWEEN = re.compile(rb"[\s,:]*+")
IN_SCALAR = re.compile(rb'[^\s,:\[\]{}"]*+')
_QUOTE, _BACKSLASH, _OPENING, _OBJECT = 0x22, 0x5C, b"[{", 0x7B


class Value:
    """One value that was looked for: the bytes ``start:end`` of the text.

    ``key`` is the name of a member of an object, as bytes without quotes, or the index of an item;
    None for a name over MAX_LEAF_BYTES. A name begins at ``name_start``. ``text`` is the value's
    own text if it was kept: strings, numbers and literals up to MAX_LEAF_BYTES, and what the shape
    calls TEXT. ``members`` are the parts found in an object or array, if the shape looks into it.
    """

    __slots__ = ("end", "is_object", "key", "members", "name_start", "start", "text")

    def __init__(self, start: int, key: bytes | int | None, name_start: int) -> None:
        self.start = start
        self.end = start
        self.key = key
        self.name_start = name_start
        self.text: bytes | None = None
        self.members: list[Value] | None = None
        self.is_object = False

    def __repr__(self) -> str:
        return f"<Value {self.key!r} {self.start}:{self.end}>"

    def get(self, key: bytes | int) -> Value | None:
        """The part with that name or index; of several with one name the last, as json has it."""
        return next((one for one in reversed(self.members or ()) if one.key == key), None)

    def data(self) -> Any:
        """The value of ``text``; None for a text that was not kept or is not JSON."""
        try:
            return None if self.text is None else loads(self.text)
        except ValueError:
            return None

    def name(self) -> str | None:
        """``key`` as text; None for an index, a name that was too long or cannot be read."""
        try:
            name = loads(b'"%s"' % self.key) if isinstance(self.key, bytes) else None
        except ValueError:
            return None
        return name if isinstance(name, str) else None


class _Open:
    """An object or array whose end has not come; ``items`` of it have begun."""

    __slots__ = ("any", "items", "shape", "value")

    def __init__(self, value: Value, shape: Shape) -> None:
        self.value = value
        self.shape = shape
        self.any = shape.get(ANY)
        self.items = 0


class JsonScanner:
    """Give it the text by :meth:`feed`, in pieces of any size, then ask for :meth:`result`."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.max_found_bytes = MAX_FOUND_BYTES  # may be set before the first piece
        self._root: Value | None = None
        self._open: list[_Open] = []
        self._name: bytes | None = None
        self._name_start = 0
        self._named = False
        self._value: Value | None = None  # the leaf, or what is stepped over
        self._in_name = self._in_string = self._in_scalar = self._escaped = False
        self._depth = 0  # of brackets in what is stepped over
        self._kept: bytearray | None = None
        self._limited = False
        self._found_bytes = 0
        self._broken = False
        self._offset = 0  # of the piece at hand, in the text
        self._kept_from = 0  # in the piece at hand

    def feed(self, piece: bytes) -> None:
        """The next piece of the text."""
        at = self._kept_from = 0
        while at < len(piece) and not self._broken:
            if self._in_string:
                at = self._string(piece, at)
            elif self._in_scalar:
                at = self._scalar(piece, at)
            elif self._depth:
                at = self._skip(piece, at)
            else:
                at = self._between(piece, at)
        if self._kept is not None:
            self._kept += memoryview(piece)[self._kept_from :]
            if self._limited and len(self._kept) > MAX_LEAF_BYTES:
                self._kept = None
            elif self._found_bytes + len(self._kept) > self.max_found_bytes:
                self._kept, self._broken = None, True
        self._offset += len(piece)

    @property
    def failed(self) -> bool:
        """True if the text is not an object or array, whatever still comes: feed no more of it."""
        return self._broken or (self._root is not None and self._root.members is None)

    def result(self) -> Value | None:
        """The outermost value; None unless the text was one whole value within MAX_FOUND_BYTES."""
        if self._in_scalar:
            self._kept_from = 0
            self._finish(b"", 0)
        whole = not (self._broken or self._in_string or self._depth or self._open)
        return self._root if whole else None

    # --- one state each: from `at` on as far as it lasts -----------------------------------

    def _between(self, piece: bytes, at: int) -> int:
        found = BETWEEN.match(piece, at)
        assert found is not None
        at = found.end()
        if at == len(piece):
            return at
        byte = piece[at]
        if byte in b"]}":
            self._close(at + 1)
        elif byte == _QUOTE and self._open and self._open[-1].value.is_object and not self._named:
            self._in_name = self._in_string = True
            self._name_start = self._offset + at
            self._keep(at, limited=True)
        else:
            self._begin(byte, at)
        return at if self._in_scalar else at + 1

    def _string(self, piece: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        end = piece.find(b'"', at)
        end = len(piece) if end < 0 else end
        if piece.find(b"\\", at, end) >= 0:
            found = IN_STRING.match(piece, at)
            assert found is not None
            end = found.end()
            if end < len(piece) and piece[end] == _BACKSLASH:  # the last byte of the piece
                self._escaped = True
                return len(piece)
        if end == len(piece):
            return end
        self._in_string = False
        if not self._depth:
            self._finish(piece, end + 1)
        return end + 1

    def _scalar(self, piece: bytes, at: int) -> int:
        found = IN_SCALAR.match(piece, at)
        assert found is not None
        if found.end() < len(piece):
            self._finish(piece, found.end())
        return found.end()

    def _skip(self, piece: bytes, at: int) -> int:
        found = SKIPPED.match(piece, at)
        assert found is not None
        at = found.end()
        if at == len(piece):
            return at
        byte = piece[at]
        if byte == _QUOTE:  # of a string that does not end in this piece
            self._in_string = True
        elif byte in _OPENING:
            self._depth += 1
        else:
            self._depth -= 1
            if not self._depth:
                self._finish(piece, at + 1)
        return at + 1

    # --- values ----------------------------------------------------------------------------

    def _begin(self, byte: int, at: int) -> None:
        if self._root is not None and not self._open:
            self._broken = True  # something behind the end
            return
        shape = self._value = None
        if self._open:
            shape = self._place(self._open[-1], at)
        else:
            shape, self._root = self._shape, Value(self._offset + at, None, self._offset + at)
            self._value = self._root
        self._name, self._named = None, False
        if byte not in _OPENING:
            self._in_string, self._in_scalar = byte == _QUOTE, byte != _QUOTE
        elif not shape or shape is TEXT:
            self._depth = 1
        else:
            assert self._value is not None
            self._value.members, self._value.is_object = [], byte == _OBJECT
            self._open.append(_Open(self._value, shape))
            return
        if shape is TEXT or (shape is not None and byte not in _OPENING):
            self._keep(at, limited=shape is not TEXT)

    def _place(self, parent: _Open, at: int) -> Shape | None:
        """The shape of the part of ``parent`` that begins; None if nobody looks for that part.

        If somebody does, the part is noted among the members of ``parent``.
        """
        key = self._name if parent.value.is_object else parent.items
        parent.items += 1
        shape = parent.shape.get(key, parent.any)
        if shape is not None:
            start = self._offset + at
            name_start = self._name_start if parent.value.is_object else start
            self._value = Value(start, key, name_start)
            assert parent.value.members is not None
            parent.value.members.append(self._value)
            self._count(PART_BYTES)
        return shape

    def _close(self, at: int) -> None:
        if not self._open:
            self._broken = True
            return
        self._open.pop().value.end = self._offset + at
        self._name, self._named = None, False

    def _keep(self, at: int, *, limited: bool) -> None:
        self._kept, self._kept_from, self._limited = bytearray(), at, limited

    def _count(self, size: int) -> None:
        self._found_bytes += size
        self._broken |= self._found_bytes > self.max_found_bytes

    def _finish(self, piece: bytes, at: int) -> None:
        """A name, a leaf or what was stepped over ends before ``at``."""
        text = None
        if self._kept is not None:
            text = bytes(self._kept) + piece[self._kept_from : at]
            self._kept = None
            self._count(len(text))
        self._in_scalar = False
        if self._in_name:
            self._in_name, self._named = False, True
            self._name = None if text is None else text[1:-1]
            return
        if self._value is not None:
            self._value.end, self._value.text, self._value = self._offset + at, text, None
