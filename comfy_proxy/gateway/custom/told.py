"""What instances were told by custom routes, to be found again by the graphs that name it.

Node packs have pictures, masks and layers sent to a route of their own and keep them in memory, or
on the disk of that instance, under an id that a graph then names in an input. Such a graph can run
only where that id is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog

MAX_WORDS: Final = 20_000
"""So many words are remembered; the oldest go for more."""
MAX_AGE_S: Final = 24 * 3600.0
"""Seconds for which a word is remembered after it was told, or named by a graph, last."""
MIN_LENGTH: Final = 4
MAX_LENGTH: Final = 256
"""Characters of a word that may be an id."""
_LONG: Final = 16
_MODEL_ENDINGS: Final = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
"""Files that every instance has, or of which it tells that it has them."""
ToldWord = tuple[str, str, frozenset[Instance]]
"""The node class and the input that a word in a graph is given to, and who was told it."""


def may_be_id(word: str) -> bool:
    """Whether a word tells things apart: it is long, or has a digit, and is no model's name.

    Words as ``image`` and numbers as ``512`` are in every other graph.
    """
    if not MIN_LENGTH <= len(word) <= MAX_LENGTH or word.lower().endswith(_MODEL_ENDINGS):
        return False
    if word.isdecimal():
        return len(word) >= _LONG
    return len(word) >= _LONG or any(one.isdigit() for one in word)


class Told:
    """Which instances were told a word by a request that changes something there."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._told: OrderedDict[str, tuple[frozenset[Instance], float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Told {len(self._told)} words>"

    def note(self, words: Iterable[str], instances: Collection[Instance]) -> None:
        """A request that names ``words`` was done by ``instances``, and by no others."""
        now, where = self._now(), frozenset(one for one in instances if not one.left)
        if not where:
            return
        for word in filter(may_be_id, words):
            self._keep(word, where, now)
        while len(self._told) > MAX_WORDS:
            self._told.popitem(last=False)

    def removed(self, instance: Instance) -> None:
        """It has left: nobody knows what it alone was told."""
        self.interrupted(instance)
        alone = [word for word, (where, _) in self._told.items() if instance in where]
        for word in alone:
            del self._told[word]

    def interrupted(self, instance: Instance) -> None:
        """Its process may have ended, and its memory is gone with it: those who were told the same
        count alone. What it alone was told nobody else knows either."""
        for word, (where, at) in self._told.items():
            if instance in where and len(where) > 1:
                self._told[word] = where - {instance}, at

    def named_in(self, graph: Mapping[str, Any]) -> list[ToldWord]:
        """The words of ``graph`` that were told to instances of which at least one is up; found
        once, and then given to :func:`lacking` for each instance."""
        if not self._told:
            return []
        words = ((name, key, self._where(word)) for name, key, word in _words(graph))
        return [word for word in words if any(one.healthy for one in word[2])]

    def _where(self, word: str) -> frozenset[Instance]:
        known = self._told.get(word)
        if known is None:
            return frozenset()
        now = self._now()
        if now - known[1] > MAX_AGE_S:
            del self._told[word]
            return frozenset()
        self._keep(word, known[0], now)
        return known[0]

    def _keep(self, word: str, where: frozenset[Instance], now: float) -> None:
        self._told[word] = where, now
        self._told.move_to_end(word)


def lacking(words: Iterable[ToldWord], instance: Instance, classes: NodeCatalog) -> int:
    """How many of ``words`` (:meth:`Told.named_in`) were not told to ``instance``. What an input
    chooses from a list, by ``classes``, is no such word: every instance has it in its list."""
    count = 0
    for class_name, input_name, where in words:
        if instance in where:
            continue
        node_class = classes.get(class_name)
        count += node_class is None or not node_class.chooses(input_name)
    return count


def _words(graph: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Class, input and text of the texts that its nodes are given, those of lists too."""
    for node in graph.values():
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            continue
        for name, value in node["inputs"].items():
            for one in value if isinstance(value, list) else (value,):
                if isinstance(one, str) and MIN_LENGTH <= len(one) <= MAX_LENGTH:
                    yield str(node.get("class_type")), name, one
