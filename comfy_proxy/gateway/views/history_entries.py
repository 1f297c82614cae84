"""An entry of the history as clients see it: prefixed outputs, our number, all else as it came."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import HistoryEntry
from comfy_proxy.cluster.prompt_outcomes import ended_at, told_by
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.gateway.exchange.pieces import Piece, Slice
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.json_scanner import Value
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.lenient_json import dumps_exact, loads_exact

Change = tuple[int, int, bytes]
"""``(start, end, bytes)``: what is put in place of ``start:end`` of an answer."""


class EndsSeen(Protocol):
    """Hears what a client is shown of a history: ``prompts/reconciler.py``."""

    def __call__(
        self, ids: Container[object], instance: Instance, entries: Mapping[str, HistoryEntry] = ...
    ) -> None:
        """The history of ``instance`` has entries of prompts with these ids; ``entries`` are those
        that were scanned for their nodes too (``HISTORY_WITH_NODES``)."""


class OwnEntries(Protocol):
    """The entries of prompts that ended at no instance, by their ids: ``prompts/own_history.py``.
    They are shown, and may be deleted, as if an instance had them."""

    def entry(self, prompt_id: str, /) -> Mapping[str, Any] | None:
        """None if it is not one of these prompts."""

    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """All of them, the oldest first."""

    def delete(self, prompt_ids: Iterable[str], /) -> None:
        """Unknown ids are ignored."""

    def clear(self) -> None:
        """Delete all of them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShownEntry:
    """An entry of an instance. ``text`` is ``"id": {…}`` in its answer, ``number`` the place of its
    number there, ``outputs`` the change that prefixes its files (None: there is nothing to prefix).
    ``ended_ms`` is in milliseconds since the epoch."""

    prompt_id: str | None
    ended_ms: float | None
    text: Slice = field(repr=False)
    number: Value | None = field(repr=False)
    outputs: Change | None = field(repr=False)

    @classmethod
    def of(
        cls, entry: HistoryEntry, answer: ScannedAnswer, instance: Instance, storage: SharedStorage
    ) -> ShownEntry:
        """``entry`` of ``instance``, found in its ``answer``; a thread may do it."""
        status = entry.value.get(b"status")
        return cls(
            prompt_id=entry.prompt_id,
            ended_ms=None if status is None else ended_at({"status": status.data()}),
            text=answer.member(entry.value),
            number=entry.number,
            outputs=prefixed(entry.outputs, instance, storage),
        )

    def numbered(self, numbers: HistoryNumbers) -> list[Piece]:
        """``text`` with our number."""
        changes = [] if self.outputs is None else [self.outputs]
        if self.prompt_id is not None and self.number is not None:
            own = self.number.data()
            number = numbers.shown(self.prompt_id, self.ended_ms, own)
            if number is not own:
                changes.append((self.number.start, self.number.end, dumps_exact(number)))
        return self.text.replaced(sorted(changes))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OwnEntry:
    """The entry of a prompt that ended here (``prompts/own_history.py``), shown like the others."""

    prompt_id: str
    entry: Mapping[str, Any] = field(repr=False)

    @property
    def ended_ms(self) -> float | None:
        return ended_at(self.entry)

    def numbered(self, numbers: HistoryNumbers) -> list[Piece]:
        """``"id": {…}`` with our number."""
        own, *rest = self.entry["prompt"]
        row = [numbers.shown(self.prompt_id, self.ended_ms, own), *rest]
        return [dumps_exact(self.prompt_id), b": ", dumps_exact({**self.entry, "prompt": row})]


def is_given_up(prompt_id: str | None, instance: Instance, ledger: Ledger) -> bool:
    """Whether that prompt goes on elsewhere, because ``instance`` hung: how it ended there counts
    for nobody (``dispatch/zombies.py`` takes it away)."""
    prompt = None if prompt_id is None else ledger.find(prompt_id)
    attempts = () if prompt is None else reversed(prompt.attempts)
    return next((one.given_up for one in attempts if one.instance is instance), False)


def is_first_try(entry: HistoryEntry, instance: Instance, second_tries: SecondTries) -> bool:
    """Whether ``entry``, in the history of ``instance``, is of a prompt that runs once more."""
    if not second_tries.enabled or entry.prompt_id is None:
        return False
    status = entry.value.get(b"status")
    told = None if status is None else told_by({"status": status.data()})
    return told is not None and second_tries.goes_on(entry.prompt_id, instance, told.error)


def prefixed(value: Value | None, instance: Instance, storage: SharedStorage) -> Change | None:
    """The change that puts the prefix of ``instance`` before the files named in ``value``.

    None if no file gets one, and for what is no JSON or nested too deeply to be read: it is shown
    as it came. Why there are prefixes: PROTOCOL.md trap 6.
    """
    if value is None or value.text is None:
        return None
    try:
        outputs = loads_exact(value.text)
        changed = storage.prefixed(outputs, instance)
    except (ValueError, RecursionError):
        return None
    return None if changed == outputs else (value.start, value.end, dumps_exact(changed))
