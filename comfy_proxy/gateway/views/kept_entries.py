"""What instances said of prompts that have ended, kept here for when they cannot be asked.

ComfyUI keeps its history in memory: what was told yesterday is gone with its process, and cannot be
asked for while it hangs. So an entry is kept as clients see it, packed. It is shown

* while its instance does not answer, or when that was removed: without a question;
* where its instance answers and lacks it: only if the instance was in trouble after the entry was
  read (:meth:`KeptEntry.may_be_lost`; else somebody deleted it there), and if the files that it
  names are its own still (:meth:`KeptEntries.is_proven`, found out by ``kept_files.py``).

With a STATE_FILE what is kept outlives this process too (``state/kept_history.py``).
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_jobs import Job, ended_job, whole_job
from comfy_proxy.cluster.prompt_lists import HistoryEntry
from comfy_proxy.cluster.prompt_outcomes import ended_at
from comfy_proxy.gateway.exchange.pieces import Piece, joined, length
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.files.told_files import told_files
from comfy_proxy.gateway.views.history_entries import Change, ShownEntry
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.lenient_json import dumps, dumps_exact, loads, loads_exact
from comfy_proxy.observers import tell

MAX_ENTRIES = 10_000
"""Entries that are kept, as many as ComfyUI's own history holds. Beyond them the one that was kept
first is forgotten."""
MAX_BYTES = 64 * 2**20
"""Bytes of all entries, packed; a graph takes a fifth of its length. Beyond them the entries that
were kept first are forgotten, but never the newest."""
MAX_ENTRY_BYTES = 8 * 2**20
"""Bytes of an entry, its graph included. A longer entry is kept without its graph and without what
came with that (both are ``{}``): that is mostly pictures, which cannot be packed. They would take
the place of hundreds of other entries, and to unpack them would stop the event loop each time."""
_NUMBER = b"\0number\0"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KeptEntry:
    """An entry of the history as clients see it, but for its number, which is ``own`` at its
    instance.

    ``instance`` is None if that was removed. ``packed`` is the text ``"id": {…}`` without the
    number, which belongs after the first ``split`` bytes. ``kept_at`` is when it was read
    (monotonic seconds; None: by a process before this one). ``packed_job`` is what ``/api/jobs``
    lists of it.
    """

    prompt_id: str
    instance: Instance | None
    kept_at: float | None
    ended_ms: float | None
    own: Any
    split: int
    packed: bytes = field(repr=False)
    packed_job: bytes = field(repr=False)
    files: tuple[FileName, ...] = field(repr=False, default=())
    """The files that its outputs name, by their names at the instance."""

    @classmethod
    def of(
        cls,
        entry: HistoryEntry,
        answer: ScannedAnswer,
        instance: Instance,
        storage: SharedStorage,
        kept_at: float,
    ) -> KeptEntry | None:
        """``entry`` of the ``answer`` of ``instance``, which was scanned for HISTORY_TO_KEEP. None
        if it has not the form of ComfyUI's, or is longer than MAX_ENTRY_BYTES even without its
        graph. To pack a long entry takes a while: call it in a thread then."""
        if entry.prompt_id is None or entry.number is None:
            return None
        shown = ShownEntry.of(entry, answer, instance, storage)
        changes = [(entry.number.start, entry.number.end, _NUMBER)]
        if shown.outputs is not None:
            changes.append(shown.outputs)
        if is_long(entry):
            changes += _without_graph(entry)
        pieces = shown.text.replaced(sorted(changes))
        if length(pieces) > MAX_ENTRY_BYTES:
            return None
        place = next(index for index, piece in enumerate(pieces) if piece is _NUMBER)
        before, after = joined(pieces[:place]), joined(pieces[place + 1 :])
        own = entry.number.data()
        job = ended_job(_as_read(entry, own, instance, storage))
        return cls(
            prompt_id=entry.prompt_id,
            instance=instance,
            kept_at=kept_at,
            ended_ms=shown.ended_ms,
            own=own,
            split=len(before),
            packed=zlib.compress(before + after, 1),
            packed_job=zlib.compress(dumps(job), 1),
            files=tuple(_files(None if entry.outputs is None else entry.outputs.data())),
        )

    @classmethod
    def made(
        cls, entry: dict[str, Any], instance: Instance, storage: SharedStorage, kept_at: float
    ) -> KeptEntry:
        """``entry``, as ComfyUI would have written it, of a prompt that has ended at ``instance``.
        To pack a long one takes a while: call it in a thread then."""
        own, prompt_id, *row = entry["prompt"]
        shown = {**entry, "outputs": storage.prefixed(entry["outputs"], instance)}
        before = dumps_exact(prompt_id) + b': {"prompt": ['
        rest = dumps_exact({key: value for key, value in shown.items() if key != "prompt"})
        after = b", " + dumps_exact([prompt_id, *row])[1:] + b", " + rest[1:]
        return cls(
            prompt_id=prompt_id,
            instance=instance,
            kept_at=kept_at,
            ended_ms=ended_at(entry),
            own=own,
            split=len(before),
            packed=zlib.compress(before + after, 1),
            packed_job=zlib.compress(dumps(ended_job(shown)), 1),
            files=tuple(_files(entry["outputs"])),
        )

    @property
    def size(self) -> int:
        return len(self.packed) + len(self.packed_job)

    def may_be_lost(self, at: Instance) -> bool:
        """Whether ``at``, its instance, which answers and lacks it, may have lost it: it was in
        trouble after the entry was read. If not, somebody deleted the entry there.

        An entry that a process before this one has read may be lost: nobody has watched the
        instance while the proxy was down.
        """
        return self.kept_at is None or at.signs.troubled_since(self.kept_at)

    def numbered(self, numbers: HistoryNumbers) -> list[Piece]:
        """``"id": {…}`` with our number."""
        text = zlib.decompress(self.packed)
        number = numbers.shown(self.prompt_id, self.ended_ms, self.own)
        return [text[: self.split], dumps_exact(number), text[self.split :]]

    def job(self) -> Job:
        """As ``/api/jobs`` lists it."""
        job: Job = loads(zlib.decompress(self.packed_job))
        return job

    def whole_job(self, numbers: HistoryNumbers) -> Job:
        """As ``/api/jobs/{id}`` tells it."""
        entry = loads_exact(b"{" + joined(self.numbered(numbers)) + b"}")[self.prompt_id]
        return whole_job(self.job(), entry)


def is_long(entry: HistoryEntry) -> bool:
    """Whether it is kept without its graph, if at all."""
    return entry.value.end - entry.value.start > MAX_ENTRY_BYTES


def _without_graph(entry: HistoryEntry) -> Iterator[Change]:
    row = entry.value.get(b"prompt")
    for index in (2, 3):
        if row is not None and (part := row.get(index)) is not None:
            yield part.start, part.end, b"{}"


def _files(outputs: Any) -> Iterator[FileName]:
    for output in outputs.values() if isinstance(outputs, dict) else ():
        yield from told_files(output)


def _as_read(
    entry: HistoryEntry, number: Any, instance: Instance, storage: SharedStorage
) -> dict[str, Any]:
    """The parts of ``entry`` that were read, in the shape of an entry of the history."""
    row = entry.value.get(b"prompt")
    extra = None if row is None else row.get(3)
    created = None if extra is None else extra.get(b"create_time")
    info = None if extra is None else extra.get(b"extra_pnginfo")
    workflow = None if info is None else info.get(b"workflow")
    name = None if workflow is None else workflow.get(b"id")
    extra_data = {
        "create_time": None if created is None else created.data(),
        "extra_pnginfo": {"workflow": {"id": None if name is None else name.data()}},
    }
    status = entry.value.get(b"status")
    outputs = None if entry.outputs is None else entry.outputs.data()
    return {
        "prompt": [number, entry.prompt_id, {}, extra_data, []],
        "outputs": storage.prefixed(outputs, instance),
        "status": None if status is None else status.data(),
    }


class KeptEntries:
    """Entries by prompt id, the one that was kept first at the front.

    ``on_kept`` callbacks hear each entry that is kept from now on, ``on_gone`` the prompt id of
    each that is forgotten, for whatever reason, and ``on_files_gone`` the entry if the
    reason is that its files cannot be had any more.
    """

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, KeptEntry] = OrderedDict()
        self._bytes = 0
        self._proven: dict[str, float] = {}
        self.on_kept: list[Callable[[KeptEntry], None]] = []
        self.on_gone: list[Callable[[str], None]] = []
        self.on_files_gone: list[Callable[[KeptEntry], None]] = []

    def __repr__(self) -> str:
        return f"<KeptEntries {len(self._entries)}, {self._bytes} B>"

    def add(self, entry: KeptEntry) -> None:
        """Keep ``entry`` in place of an older one of its id; not if its instance was removed."""
        if entry.instance is not None and entry.instance.left:
            return
        self.delete([entry.prompt_id])
        self._entries[entry.prompt_id] = entry
        self._bytes += entry.size
        tell(self.on_kept, entry)
        while len(self._entries) > 1 and (
            len(self._entries) > self._max_entries or self._bytes > self._max_bytes
        ):
            self.delete([next(iter(self._entries))])

    def find(self, prompt_id: str) -> KeptEntry | None:
        """The entry of that prompt; None if none is kept."""
        return self._entries.get(prompt_id)

    def standing_in(self, answered: Container[Instance]) -> list[KeptEntry]:
        """Those to be shown in a list that is made of the answers of ``answered``, which may have
        them too. Nobody is asked for files: what is not proven is left out."""
        return [
            one
            for one in self._entries.values()
            if (at := one.instance) is None
            or at not in answered
            or (one.may_be_lost(at) and self.is_proven(one, at))
        ]

    def is_proven(self, entry: KeptEntry, at: Instance) -> bool:
        """Whether its files were found to be its own since ``at``, its instance, was in trouble
        last: that may have given their names to others' results since."""
        proven_at = self._proven.get(entry.prompt_id)
        return proven_at is not None and not at.signs.troubled_since(proven_at)

    def prove(self, entry: KeptEntry, proven_at: float) -> None:
        """Its files were there and its own at that moment (monotonic seconds)."""
        self._proven[entry.prompt_id] = proven_at

    def delete(self, prompt_ids: Iterable[str]) -> None:
        """Forget the entries of these prompts; unknown ids are ignored."""
        for prompt_id in prompt_ids:
            self._proven.pop(prompt_id, None)
            if (entry := self._entries.pop(prompt_id, None)) is not None:
                self._bytes -= entry.size
                tell(self.on_gone, prompt_id)

    def files_gone(self, entry: KeptEntry) -> None:
        """Forget ``entry``: its files are gone from its instance, or are another prompt's now."""
        self.delete([entry.prompt_id])
        tell(self.on_files_gone, entry)

    def removed(self, instance: Instance, common: Container[str]) -> None:
        """``instance`` was removed. Its entries are kept only if all their files are of kinds for
        which all instances share one directory (``common``), so that others can serve them."""
        for one in [one for one in self._entries.values() if one.instance is instance]:
            if all(file.type in common for file in one.files):
                self._entries[one.prompt_id] = replace(one, instance=None)
            else:
                self.files_gone(one)

    def clear(self) -> None:
        """Forget all entries."""
        self.delete(tuple(self._entries))
