"""The answer to ``/object_info`` as it came, with an index: where each class is, and what is asked
of all classes at once.

Half a megabyte as a rule, 10 MB and more with many custom nodes. As objects that is 30,000 dicts
and lists and more for each instance, which the garbage collector walks through again and again; the
index is a few arrays and one dict of numbers, which it does not look into. A class is read when
somebody asks for it, which those in people's graphs are, and kept within ``KEPT_BYTES``.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Set

from comfy_proxy.cluster.object_info.node_class import NodeClass
from comfy_proxy.lenient_json import loads_exact

KEPT_BYTES = 4 * 2**20
"""Bytes of text of the classes that are kept as objects, for each table; they take some eight times
that. Beyond, the one that was asked for the longest ago is dropped, and read again when it is asked
for: 20 µs for one of ordinary size. One that is longer than that is kept alone."""


class ClassTable:
    """Classes by name. Never changed once its maker (``table_maker.py``) is done with it.

    ``is_native`` is True if ``body`` is what ComfyUI itself would write of these classes.
    """

    __slots__ = ("_choices", "_choices_from", "_choices_to", "_ends", "_kept", "_kept_bytes",
                 "_name_starts", "_numbers", "_starts", "_uploads",
                 "body", "is_native")  # fmt: skip

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.is_native = False
        self._numbers: dict[str, int] = {}
        self._name_starts, self._starts, self._ends = array("Q"), array("Q"), array("Q")
        self._uploads = bytearray()  # 1 for a class that lists uploads
        self._choices = array("q")  # the hashes of all texts to choose from, class by class
        self._choices_from, self._choices_to = array("Q"), array("Q")
        self._kept: OrderedDict[str, NodeClass] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    # --- what is asked -------------------------------------------------------------------

    def text(self, name: str) -> bytes | None:
        """What the instance says of that class, byte for byte; None if it has none."""
        number = self._numbers.get(name)
        return None if number is None else self.body[self._starts[number] : self._ends[number]]

    def get(self, name: str) -> NodeClass | None:
        """The class of that name; None if there is none."""
        known = self._kept.get(name)
        if known is not None:
            self._kept.move_to_end(name)
            return known
        text = self.text(name)
        if text is None:
            return None
        known = self._kept[name] = NodeClass(name, loads_exact(text))
        self._kept_bytes += len(text)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            dropped, _ = self._kept.popitem(last=False)
            self._kept_bytes -= self._size(self._numbers[dropped])
        return known

    def listing_uploads(self) -> Iterator[str]:
        """The names of the classes of which an upload changes what is said."""
        return (name for name, number in self._numbers.items() if self._uploads[number])

    def listing_folders(self, folders: Set[str]) -> Iterator[str]:
        """The names of the classes that choose from the input directory's folders, by those known.

        ComfyUI has no mark for such an input: it is one if a known folder is among its choices.
        They are compared by their hashes of 64 bits; one that is the same by chance would cost a
        question.
        """
        hashes = set(map(hash, folders))
        if not hashes or hashes.isdisjoint(self._choices):
            return
        for name, number in self._numbers.items():
            first, end = self._choices_from[number], self._choices_to[number]
            if first < end and not hashes.isdisjoint(self._choices[first:end]):
                yield name

    # --- for its maker -------------------------------------------------------------------

    def add(
        self, node_class: NodeClass, name_start: int, start: int, end: int, choices: array[int]
    ) -> None:
        """``start:end`` of the body is what is said of that class, ``choices`` are the hashes of
        its texts. Of several with one name the last one counts, in the place of the first, as
        ``json`` has it."""
        first = len(self._choices)
        self._choices += choices
        self._put(node_class.name, (name_start, start, end), node_class.lists_uploads(), first)

    def add_same(self, name: str, other: ClassTable, number: int, name_start: int) -> None:
        """What ``other`` has under ``number``, which is the class ``name``, byte for byte; here its
        member begins at ``name_start``."""
        first, shift = len(self._choices), name_start - other._name_starts[number]
        self._choices += other._choices[other._choices_from[number] : other._choices_to[number]]
        place = name_start, other._starts[number] + shift, other._ends[number] + shift
        self._put(name, place, bool(other._uploads[number]), first)

    def number(self, name: str) -> int | None:
        """The place of that class among the others, from 0; None if there is none."""
        return self._numbers.get(name)

    def start(self, name: str) -> int:
        """Where what is said of that class begins; there is one."""
        return self._starts[self._numbers[name]]

    def member(self, number: int) -> bytes:
        """The text of the class in that place, its name included."""
        return self.body[self._name_starts[number] : self._ends[number]]

    def _put(self, name: str, place: tuple[int, int, int], uploads: bool, first: int) -> None:
        number = self._numbers.setdefault(name, len(self._numbers))
        if number == len(self._starts):
            for one in (self._name_starts, self._starts, self._ends):
                one.append(0)
            self._choices_from.append(0)
            self._choices_to.append(0)
            self._uploads.append(0)
        self._name_starts[number], self._starts[number], self._ends[number] = place
        self._choices_from[number], self._choices_to[number] = first, len(self._choices)
        self._uploads[number] = uploads

    def _size(self, number: int) -> int:
        return self._ends[number] - self._starts[number]
