"""What is read of ``/queue`` and ``/history``: ids, numbers, outputs and ends, and nothing more.

Their entries hold whole graphs, which may be of any size and need not be JSON by the standard.
Those are stepped over (see ``json_scanner.py``). An entry that is not shaped like ComfyUI's is kept
as one without an id, so that one odd prompt does not hide all the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from comfy_proxy.json_listing import STEP_BYTES
from comfy_proxy.json_scanner import ANY, TEXT, Shape, Value
from comfy_proxy.json_steps import in_turns, loads_in_steps

MOST_ITEMS = 2**63 - 1
"""So many entries or jobs an instance is asked for at most. A client may send a number of 4,300
digits, and the sum of that and one more is too long for Python to be written."""

_ADDRESSABLE = re.compile(r"(?!\.{1,2}$)[^{}\ud800-\udfff]+", re.DOTALL)
"""Ids that the path ``/history/{id}`` can hold; for any other the whole history is read. It cannot
hold the empty one, ``.`` and ``..``, which a URL loses, braces, which aiohttp's router takes for
its own, and lone surrogates, for which UTF-8 has no bytes."""
MAX_ENCODED_ID = 2_000
"""Characters of an encoded id in the path ``/history/{id}``; a longer one is looked for in the
whole history, because ComfyUI's server refuses request lines above 8190 characters."""
_ENTRY: Shape = {0: {}, 1: {}, 3: {b"create_time": {}, b"client_id": {}}}
"""ComfyUI's entry is ``[number, id, graph, extra_data, outputs]``; read are the first two, the time
of creation and whom its events are sent to."""
QUEUE: Shape = {b"queue_running": {ANY: _ENTRY}, b"queue_pending": {ANY: _ENTRY}}
"""What to read of ``/queue``: of each entry its number, id, time of creation and clientId."""
HISTORY: Shape = {ANY: {b"prompt": {0: {}}, b"outputs": TEXT, b"status": TEXT}}
"""What to read of ``/history``: of each entry its number, outputs and status."""
NUMBERS: Shape = {ANY: {b"prompt": {0: {}}}}
"""What to read of ``/history`` where only ids and numbers are of interest."""
Newest = tuple[str | None, float]
"""Id and number of the prompt that has ended last; the id is None if it cannot be read."""
HISTORY_WITH_NODES: Shape = {
    ANY: {b"prompt": {0: {}, 2: {ANY: {}}}, b"outputs": TEXT, b"status": TEXT, b"meta": TEXT}
}
"""As HISTORY, and the ids of the nodes in each graph, and what ``meta`` tells of those that gave
results."""
HISTORY_TO_KEEP: Shape = {
    ANY: {
        b"prompt": {
            0: {},
            2: {ANY: {}},
            3: {b"create_time": {}, b"extra_pnginfo": {b"workflow": {b"id": {}}}},
        },
        b"outputs": TEXT,
        b"status": TEXT,
        b"meta": TEXT,
    }
}
"""What to read of an entry that is to be kept (``gateway/views/kept_entries.py``): as
HISTORY_WITH_NODES, and what its job is to tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueView:
    """The prompt ids of one ``GET /queue``; ``id in view`` asks for both lists."""

    running: frozenset[str]
    pending: frozenset[str]

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.running or prompt_id in self.pending


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueEntry:
    """One entry of a queue.

    The lowest ``number`` runs first; it is 0 where there is none. ``prompt_id`` is None if the
    entry is not shaped like ComfyUI's. ``created`` is in milliseconds since the epoch, 0 if it is
    not told. ``value`` is where the entry stands in the answer. ``client_id`` is None if it is not
    told.
    """

    number: float
    prompt_id: str | None
    created: float
    value: Value
    client_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """One instance's ``/queue`` in the order of the answer: a heap's, not that of execution."""

    running: list[QueueEntry]
    pending: list[QueueEntry]

    @property
    def empty(self) -> bool:
        return not (self.running or self.pending)

    def view(self) -> QueueView:
        """The ids alone."""
        return QueueView(running=_ids(self.running), pending=_ids(self.pending))


def _ids(entries: Iterable[QueueEntry]) -> frozenset[str]:
    return frozenset(one.prompt_id for one in entries if one.prompt_id is not None)


def read_queue(root: Value | None) -> Queue | None:
    """The queue in an answer scanned for QUEUE; None if the answer is not a queue."""
    running, pending = (
        None if root is None else root.get(key) for key in (b"queue_running", b"queue_pending")
    )
    if running is None or pending is None or running.members is None or pending.members is None:
        return None
    if running.is_object or pending.is_object:
        return None
    return Queue(
        running=[_queue_entry(one) for one in running.members],
        pending=[_queue_entry(one) for one in pending.members],
    )


def _queue_entry(value: Value) -> QueueEntry:
    number, prompt_id, extra = value.get(0), value.get(1), value.get(3)
    created = None if extra is None else extra.get(b"create_time")
    client = None if extra is None else extra.get(b"client_id")
    name, client_id = (None if one is None else one.data() for one in (prompt_id, client))
    return QueueEntry(
        number=finite(None if number is None else number.data()),
        prompt_id=name if isinstance(name, str) else None,
        created=finite(None if created is None else created.data()),
        value=value,
        client_id=client_id if isinstance(client_id, str) else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryEntry:
    """One entry of a history.

    ``prompt_id`` is None if its key is no text that can be read. ``value``, ``number`` and
    ``outputs`` are where these stand in the answer, the last two None if the entry lacks them.
    """

    prompt_id: str | None
    value: Value
    number: Value | None
    outputs: Value | None

    def data(self) -> dict[str, Any]:
        """What was kept of the entry, in ComfyUI's shape; a part that it lacks is left out.

        ``{"prompt": [number, None, graph], "outputs": …, "status": …}``; the graph is None, or
        ``{node: None…}`` if it was scanned for HISTORY_WITH_NODES, and so is ``meta`` there.
        """
        return self._kept({name: part.data() for name, part in self._parts()})

    async def data_in_turns(self) -> dict[str, Any]:
        """The same; of long parts a few kilobytes at a time. A node may tell 50 MB of text."""
        return self._kept({name: await _in_turns(part) for name, part in self._parts()})

    def _parts(self) -> Iterator[tuple[str, Value]]:
        for name in ("outputs", "status", "meta"):
            part = self.value.get(name.encode())
            if part is not None and part.text is not None:
                yield name, part

    def _kept(self, parts: dict[str, Any]) -> dict[str, Any]:
        if self.number is not None:
            row = self.value.get(b"prompt")
            graph = None if row is None else row.get(2)
            nodes = None if graph is None or graph.members is None else graph.members
            names = None if nodes is None else {one.name(): None for one in nodes}
            parts["prompt"] = [self.number.data(), None, names]
        return parts


async def _in_turns(part: Value) -> Any:
    """Its value as of :meth:`Value.data`."""
    if part.text is None or len(part.text) <= STEP_BYTES:
        return part.data()
    try:
        return await in_turns(loads_in_steps(part.text))
    except ValueError:
        return None


def read_history(root: Value | None) -> list[HistoryEntry] | None:
    """The entries in an answer scanned for HISTORY, oldest first; None if it is not a history."""
    if root is None or not root.is_object or root.members is None:
        return None
    return [_history_entry(one) for one in root.members]


def _history_entry(value: Value) -> HistoryEntry:
    row = value.get(b"prompt")
    return HistoryEntry(
        prompt_id=value.name(),
        value=value,
        number=None if row is None else row.get(0),
        outputs=value.get(b"outputs"),
    )


def read_newest(root: Value) -> Newest | None:
    """The last one of an answer scanned for NUMBERS; None if it has none."""
    entries = read_history(root)
    if not entries:
        return None
    number = entries[-1].number
    return entries[-1].prompt_id, finite(None if number is None else number.data())


def history_path(prompt_id: str) -> str:
    """The path, encoded, by which to learn of one prompt: that of its entry, or the whole history.

    The whole one for an id that no path can hold (_ADDRESSABLE) or that is longer than
    MAX_ENCODED_ID: clients may choose any string.
    """
    if _ADDRESSABLE.fullmatch(prompt_id):
        encoded = quote(prompt_id, safe="")
        if len(encoded) <= MAX_ENCODED_ID:
            return f"/history/{encoded}"
    return "/history"


def extra_data(entry: Sequence[Any]) -> Mapping[str, Any]:
    """What a client sent along with the prompt of an ``entry`` of ``/queue``; empty if nothing."""
    extra = entry[3] if len(entry) > 3 else None
    return extra if isinstance(extra, dict) else {}


def number_of(entry: Any) -> float:
    """The number in an entry of ``/history``, in the form of :meth:`HistoryEntry.data`; 0 if it
    has none."""
    match entry:
        case {"prompt": [int() | float() as number, *_]}:
            return number
    return 0


def finite(value: Any) -> float:
    """``value`` as a number to sort by; 0 for NaN, an infinity, and whatever is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    try:
        return value if math.isfinite(value) else 0
    except OverflowError:  # an integer that no float can hold
        return 0
