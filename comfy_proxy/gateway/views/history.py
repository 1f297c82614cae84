"""``GET /history``: the histories of all instances as one, paged once.

What is healthy answers. For an instance that fails, or was started again since, stands what was
kept of its entries (``kept_entries.py``), and a header names those that could not be asked. If none
gives a usable answer the client gets the first one's own (its 400 or 500), if none answers at all a
503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from functools import partial
from typing import TypeVar

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import HISTORY, MOST_ITEMS, read_history
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.missing import name_missing, unasked
from comfy_proxy.gateway.exchange.pieces import Piece, listed
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_all_scanned
from comfy_proxy.gateway.files.made_files import MadeFiles, ToldOutputs
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.gateway.views.history_entries import (
    EndsSeen,
    OwnEntries,
    OwnEntry,
    ShownEntry,
    is_first_try,
    is_given_up,
)
from comfy_proxy.gateway.views.history_keeper import Losses
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.gateway.views.kept_entries import KeptEntries, KeptEntry
from comfy_proxy.ledger.ledger import Ledger

ENTRIES_AT_ONCE = 500
"""So many entries of a history are numbered without a break, which takes some milliseconds; before
the next ones other requests have their turn, because this is done on the event loop."""
KEPT_COST = 50
"""A kept entry is unpacked first, which takes as long as to number so many others."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
AnyEntry = ShownEntry | OwnEntry | KeptEntry
Entries = dict[Hashable, AnyEntry]
"""By the id of the prompt; an entry without a readable id is its own key."""


class MergedHistory:
    """The entries of all instances, those that were kept of instances that lack them (``kept``),
    and those of prompts that ended at none (``own_history``).

    What they tell of files is noted in ``made_files``; ``numbers`` are what clients see for the
    instances' own, which cannot be compared.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        *,
        own_history: OwnEntries,
        ends_seen: EndsSeen,
        kept: KeptEntries,
        losses: Losses,
        made_files: MadeFiles,
        storage: SharedStorage,
        numbers: HistoryNumbers,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._own_history = own_history
        self._ends_seen = ends_seen
        self._kept = kept
        self._losses = losses
        self._made_files = made_files
        self._storage = storage
        self._numbers = numbers
        self._second_tries = SecondTries.of(cluster, ledger)
        self.views: Views = {"/history": self.answer}

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /history``: oldest first, which is the order in which prompts ended.

        By the end and not by the start: so new entries come at the end, as on one server, and a
        page that was read stays what it was.
        """
        query = request.rel_url.query
        try:
            max_items = int(query["max_items"]) if "max_items" in query else None
            offset = int(query.get("offset", -1))
        except ValueError:  # ComfyUI's own 500
            return await forward_balanced(request, self._cluster)
        path = f"/history{_enough(max_items, offset)}"
        answers = await ask_all_scanned(self._cluster, path, HISTORY)
        like, ordered, made = await native.off_loop(answers, partial(self._in_order, answers))
        if ordered is None:
            return await native.relayed_scanned(request, like)
        for at in range(0, len(made), ENTRIES_AT_ONCE):
            self._made_files.note(made[at : at + ENTRIES_AT_ONCE])
            await asyncio.sleep(0)
        for instance in answers:
            self._ends_seen(ordered, instance)
        for prompt_id in self._first_tries(answers):
            ordered.pop(prompt_id, None)
        shown = page(ordered, max_items, offset)
        self._losses.shown(one for one in shown if isinstance(one, str))
        numbered = await self._numbered(shown)
        return await native.reply_pieces(request, [b"{", *await listed(numbered), b"}"], like)

    def _in_order(
        self, answers: Mapping[Instance, ScannedAnswer]
    ) -> tuple[ScannedAnswer, Entries | None, list[ToldOutputs]]:
        """All entries by their ends, None if nobody gave any, and what they tell of files.

        Reads only, a thread may do it.
        """
        made: list[ToldOutputs | None] = []
        like, histories = native.usable(answers, lambda answer: read_history(answer.root))
        if not histories:
            return like, None, []
        name_missing(like, unasked(self._cluster, histories))
        dated: list[tuple[float, AnyEntry]] = [
            ((own := OwnEntry(prompt_id=key, entry=entry)).ended_ms or 0.0, own)
            for key, entry in self._own_history.entries().items()
        ]
        for instance, entries in histories.items():
            ended = 0.0
            for entry in entries:
                if is_given_up(entry.prompt_id, instance, self._ledger):
                    continue
                shown = ShownEntry.of(entry, answers[instance], instance, self._storage)
                ended = shown.ended_ms or ended  # one without an end stays behind the one before
                made.append(self._made_files.in_scanned(entry, instance))
                dated.append((ended, shown))
        told = {one.prompt_id for _, one in dated}
        kept = self._kept.standing_in(histories)
        dated += [(one.ended_ms or 0.0, one) for one in kept if one.prompt_id not in told]
        dated.sort(key=lambda item: item[0])
        shown_by: Entries = {
            one.prompt_id if one.prompt_id is not None else one: one for _, one in dated
        }
        told_of = [one for one in made if one is not None]
        told_of.sort(key=lambda one: one.ended_s or 0.0)
        return like, shown_by, told_of

    def _first_tries(self, answers: Mapping[Instance, ScannedAnswer]) -> list[Hashable]:
        """Who seems to have ended, but runs once more."""
        if not self._second_tries.enabled:
            return []
        return [
            entry.prompt_id
            for instance, answer in answers.items()
            for entry in read_history(answer.root) or ()
            if is_first_try(entry, instance, self._second_tries)
        ]

    async def _numbered(self, entries: Entries) -> list[list[Piece]]:
        """Their texts, with the numbers that clients see."""
        numbered, cost = [], 0
        for one in entries.values():
            numbered.append(one.numbered(self._numbers))
            cost += KEPT_COST if isinstance(one, KeptEntry) else 1
            if cost >= ENTRIES_AT_ONCE:
                cost = 0
                await asyncio.sleep(0)
        return numbered


def _enough(max_items: int | None, offset: int) -> str:
    """The query for as much of one instance's history as a page of the whole may need."""
    if max_items is None:
        return ""
    if offset < 0:
        return f"?max_items={max(max_items, 0)}"
    return f"?max_items={min(offset + max(max_items, 1), MOST_ITEMS)}&offset=0"


def page(entries: Mapping[K, T], max_items: int | None, offset: int) -> dict[K, T]:
    """What ComfyUI gives for these parameters; at an offset it gives one entry at least."""
    if offset < 0 and max_items is not None:
        offset = len(entries) - max_items
    ids = list(entries)[max(offset, 0) :]
    if max_items is not None:
        ids = ids[: max(max_items, 1)]
    return {prompt_id: entries[prompt_id] for prompt_id in ids}
