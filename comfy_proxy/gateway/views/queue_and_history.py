"""One answer of all instances' answers: the queue, its length, the history, the lists of files.

What is healthy answers; an instance that fails is left out. If none gives a usable answer the
client gets the first one's own (its 400 or 500), if none answers at all a 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import length_answer, read_length
from comfy_proxy.cluster.prompt_lists import (
    HISTORY,
    QUEUE,
    Queue,
    QueueEntry,
    extra_data,
    finite,
    read_history,
    read_queue,
)
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer, ask_all
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.pieces import Piece, listed
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_all_scanned
from comfy_proxy.gateway.files.made_files import ToldOutputs
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.history_entries import OwnEntry, ShownEntry
from comfy_proxy.gateway.views.jobs import jobs
from comfy_proxy.ledger.transit import MAX_LOOKS
from comfy_proxy.lenient_json import dumps_exact

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

ENTRIES_AT_ONCE = 500
"""How many entries of a history are numbered without a break, which takes some milliseconds; after
that others have their turn."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


async def merged(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """The policy ``merged``: each pattern has its own way to put the answers together."""
    return await _VIEWS[match.pattern](request, match, gateway)


# --- /queue and /prompt -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An entry of the queue as it is shown: ``text``. ``prompt_id`` is None for what is no entry of
    ComfyUI's; ``created`` is in milliseconds since the epoch, 0 if it is not told."""

    number: float
    prompt_id: str | None
    created: float
    text: Piece


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeQueue:
    """All instances' queues as one; ``like`` is one of the answers."""

    running: list[Row]
    pending: list[Row]
    like: ScannedAnswer

    @property
    def remaining(self) -> int:
        return len(self.running) + len(self.pending)


async def queue(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """``GET /queue``: pending ones by number, then by age."""
    found = await whole_queue(gateway)
    if isinstance(found, ScannedAnswer):
        return await native.relayed_scanned(request, found)
    pieces = [
        b'{"queue_running": [',
        *listed([row.text] for row in found.running),
        b'], "queue_pending": [',
        *listed([row.text] for row in found.pending),
        b"]}",
    ]
    return await native.reply_pieces(request, pieces, found.like)


async def queue_length(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """``GET /prompt``: how many wait or run. While prompts move they are counted one by one."""
    with gateway.ledger.transit.watch() as moved:
        answers = await ask_all(gateway.cluster, "GET", "/prompt")
    like, lengths = native.usable(answers, lambda answer: read_length(native.load(answer)))
    if not lengths:
        return native.relayed(like)
    remaining = sum(lengths.values())
    if moved:
        found = await whole_queue(gateway)
        remaining = found.remaining if isinstance(found, WholeQueue) else remaining
    return native.reply(length_answer(remaining), like)


async def whole_queue(gateway: Gateway) -> WholeQueue | ScannedAnswer:
    """Every prompt that waits or runs, each id where it has got furthest, none missing.

    An answer instead if no instance gave a queue. Raises NoHealthyInstanceError.
    """
    for looks_left in reversed(range(MAX_LOOKS)):
        with gateway.ledger.transit.watch() as moved:
            answers = await ask_all_scanned(gateway.cluster, "/queue", QUEUE)
        like, joined = await native.off_loop(answers, partial(_joined, answers))
        if joined is None:
            return like
        running, pending = joined
        shown = {row.prompt_id for row in (*running, *pending)}
        nowhere = [prompt for prompt in moved.values() if prompt.prompt_id not in shown]
        if not looks_left or all(prompt.in_transit for prompt in nowhere):
            break  # else one has arrived since: it is at its place now, or has ended already
    pending += [
        _moving_row(prompt.queue_entry)
        for prompt in nowhere
        if prompt.queue_entry is not None and not prompt.deleted
    ]
    pending.sort(key=lambda row: (row.number, row.created))
    return WholeQueue(running=running, pending=pending, like=like)


def _joined(
    answers: Mapping[Instance, ScannedAnswer],
) -> tuple[ScannedAnswer, tuple[list[Row], list[Row]] | None]:
    """All queues as one, None if nobody gave any; reads only, a thread may do it."""
    like, queues = native.usable(answers, lambda answer: read_queue(answer.root))
    if not queues:
        return like, None
    return like, _join([(answers[one], queue) for one, queue in queues.items()])


def _join(queues: Sequence[tuple[ScannedAnswer, Queue]]) -> tuple[list[Row], list[Row]]:
    """Running and pending entries; of an id that several instances show only the furthest.

    An id twice on ONE instance are two prompts, since ComfyUI runs one as often as it is posted,
    and stay two. What has no id is shown as it came.
    """
    running: list[Row] = []
    pending: list[Row] = []
    seen: set[str | None] = set()
    for answer, one in queues:
        running += [_row(entry, answer) for entry in one.running if entry.prompt_id not in seen]
        seen |= {row.prompt_id for row in running} - {None}
    for answer, one in queues:
        mine = {entry.prompt_id for entry in one.running}
        new = [one for one in one.pending if one.prompt_id not in seen or one.prompt_id in mine]
        pending += [_row(entry, answer) for entry in new]
        seen |= {row.prompt_id for row in pending} - {None}
    return running, pending


def _row(entry: QueueEntry, answer: ScannedAnswer) -> Row:
    return Row(
        number=entry.number,
        prompt_id=entry.prompt_id,
        created=entry.created,
        text=answer.part(entry.value),
    )


def _moving_row(entry: list[Any]) -> Row:
    return Row(
        number=finite(entry[0]),
        prompt_id=entry[1],
        created=finite(extra_data(entry).get("create_time")),
        text=dumps_exact(entry),
    )


# --- /history ---------------------------------------------------------------------------


async def history(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """``GET /history``: oldest first, which is the order in which prompts ended.

    By the end and not by the start: so new entries come at the end, as on one server, and a page
    that was read stays what it was.
    """
    query = request.rel_url.query
    try:
        max_items = int(query["max_items"]) if "max_items" in query else None
        offset = int(query.get("offset", -1))
    except ValueError:  # ComfyUI's own 500
        return await forward_balanced(request, gateway.cluster)
    path = f"/history{_enough(max_items, offset)}"
    answers = await ask_all_scanned(gateway.cluster, path, HISTORY)
    like, ordered, made = await native.off_loop(answers, lambda: _in_order(answers, gateway))
    if ordered is None:
        return await native.relayed_scanned(request, like)
    gateway.made_files.note(made)
    shown = page(ordered, max_items, offset)
    numbered = []
    for index, one in enumerate(shown.values(), start=1):
        numbered.append(one.numbered(gateway.history_numbers))
        if index % ENTRIES_AT_ONCE == 0:
            await asyncio.sleep(0)  # others have their turn
    return await native.reply_pieces(request, [b"{", *listed(numbered), b"}"], like)


def _enough(max_items: int | None, offset: int) -> str:
    """The query for as much of one instance's history as a page of the whole may need."""
    if max_items is None:
        return ""
    if offset < 0:
        return f"?max_items={max(max_items, 0)}"
    return f"?max_items={offset + max(max_items, 1)}&offset=0"


def page(entries: Mapping[K, T], max_items: int | None, offset: int) -> dict[K, T]:
    """What ComfyUI gives for these parameters; at an offset it gives one entry at least."""
    if offset < 0 and max_items is not None:
        offset = len(entries) - max_items
    ids = list(entries)[max(offset, 0) :]
    if max_items is not None:
        ids = ids[: max(max_items, 1)]
    return {prompt_id: entries[prompt_id] for prompt_id in ids}


def _in_order(
    answers: Mapping[Instance, ScannedAnswer], gateway: Gateway
) -> tuple[ScannedAnswer, dict[Hashable, ShownEntry | OwnEntry] | None, list[ToldOutputs | None]]:
    """All entries by their ends, None if nobody gave any, and what they tell of files.

    Reads only, a thread may do it.
    """
    made: list[ToldOutputs | None] = []
    like, histories = native.usable(answers, lambda answer: read_history(answer.root))
    if not histories:
        return like, None, made
    dated: list[tuple[float, ShownEntry | OwnEntry]] = [
        ((own := OwnEntry(prompt_id=key, entry=entry)).ended_ms or 0.0, own)
        for key, entry in gateway.own_history.entries().items()
    ]
    for instance, entries in histories.items():
        ended = 0.0
        for entry in entries:
            shown = ShownEntry.of(entry, answers[instance], instance, gateway)
            ended = shown.ended_ms or ended
            made.append(gateway.made_files.in_scanned(entry, instance))
            dated.append((ended, shown))
    dated.sort(key=lambda item: item[0])
    shown_by: dict[Hashable, ShownEntry | OwnEntry] = {
        one.prompt_id if one.prompt_id is not None else one: one for _, one in dated
    }
    return like, shown_by, made


# --- /internal/files --------------------------------------------------------------------


async def files(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """``GET /internal/files/{type}``: the union, each instance's order kept, no name twice."""
    path = request.rel_url.raw_path
    answers = await ask_all(gateway.cluster, "GET", path)
    like, lists = native.usable(answers, _list)
    if not lists:
        return native.relayed(like)
    names = {repr(name): name for names in lists.values() for name in names}
    return native.reply(list(names.values()), like)


# --- the shapes -------------------------------------------------------------------


def _list(answer: Answer) -> list[Any] | None:
    data = native.load(answer)
    return data if isinstance(data, list) else None


_VIEWS = {
    "/queue": queue,
    "/prompt": queue_length,
    "/history": history,
    "/jobs": jobs,
    "/internal/files/{directory_type}": files,
}
