"""All instances' queues as one: ``GET /queue``, and ``GET /prompt`` with its length.

What is healthy answers. What an instance that fails has, as far as it came through us, is filled in
from the ledger (``queue_rows.py``), and a header names that instance. If none gives a usable answer
the client gets the first one's own (its 400 or 500), if none answers at all a 503.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import length_answer, read_length
from comfy_proxy.cluster.prompt_lists import QUEUE, Queue, read_queue
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import ask_all
from comfy_proxy.gateway.exchange.missing import name_missing, unasked
from comfy_proxy.gateway.exchange.pieces import listed
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_all_scanned
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.gateway.views.queue_rows import LedgerRows, Row
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.transit import MAX_LOOKS


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeQueue:
    """All instances' queues as one; ``like`` is one of the answers, and names who gave none."""

    running: list[Row]
    pending: list[Row]
    like: ScannedAnswer

    @property
    def remaining(self) -> int:
        return len(self.running) + len(self.pending)


class MergedQueue:
    """What waits and runs at all instances, and what is on its way between two of them.

    ``known`` is what waits and runs where instances cannot be asked.
    """

    def __init__(self, cluster: Cluster, ledger: Ledger, known: LedgerRows) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._known = known
        self.views: Views = {"/queue": self.entries, "/prompt": self.length}

    async def entries(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /queue``: pending ones by number, then by age."""
        found = await self.whole()
        if isinstance(found, ScannedAnswer):
            return await native.relayed_scanned(request, found)
        pieces = [
            b'{"queue_running": [',
            *await listed([row.text] for row in found.running),
            b'], "queue_pending": [',
            *await listed([row.text] for row in found.pending),
            b"]}",
        ]
        return await native.reply_pieces(request, pieces, found.like)

    async def length(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /prompt``: how many wait or run.

        The sum of what the instances say, and of what the ledger knows of those that could not be
        asked; while prompts move they are counted one by one, because the sum must not fall
        meanwhile (PROTOCOL.md trap 24).
        """
        with self._ledger.transit.watch() as moved:
            answers = await ask_all(self._cluster, "GET", "/prompt")
        like, lengths = native.usable(answers, lambda answer: read_length(native.load(answer)))
        if not lengths:
            return native.relayed(like)
        missing = unasked(self._cluster, lengths)
        remaining = sum(lengths.values()) + len(self._known.at(missing))
        if moved:
            found = await self.whole()
            remaining = found.remaining if isinstance(found, WholeQueue) else remaining
        name_missing(like, missing)
        return native.reply(length_answer(remaining), like)

    async def whole(self) -> WholeQueue | ScannedAnswer:
        """Every prompt that waits or runs, each id where it has got furthest, none missing.

        While a prompt that moves was seen nowhere and has arrived since, all are asked again, up to
        MAX_LOOKS times; beyond that, or if it is still on its way, it is shown as waiting: one view
        must show it (PROTOCOL.md trap 24). An answer instead if no instance gave a queue. Raises
        NoHealthyInstanceError.
        """
        for looks_left in reversed(range(MAX_LOOKS)):
            with self._ledger.transit.watch() as moved:
                answers = await ask_all_scanned(self._cluster, "/queue", QUEUE)
            like, joined = await native.off_loop(answers, partial(_joined, answers))
            if joined is None:
                return like
            running, pending, answered = joined
            shown = {row.prompt_id for row in (*running, *pending)}
            nowhere = [prompt for prompt in moved.values() if prompt.prompt_id not in shown]
            if not looks_left or all(prompt.in_transit for prompt in nowhere):
                break  # else one has arrived since: it is at its place now, or has ended already
        missing = unasked(self._cluster, answered)
        name_missing(like, missing)
        nowhere = [prompt for prompt in nowhere if not prompt.ended and not prompt.deleted]
        await self._fill(running, pending, [*nowhere, *self._known.at(missing)], shown)
        pending.sort(key=lambda row: (row.number, row.created))
        return WholeQueue(running=running, pending=pending, like=like)

    async def _fill(
        self, running: list[Row], pending: list[Row], prompts: list[Prompt], shown: set[str | None]
    ) -> None:
        """Add those of ``prompts`` that are not ``shown``, each once."""
        unshown = {prompt.prompt_id: prompt for prompt in prompts if prompt.prompt_id not in shown}
        entries = await self._known.entries(unshown.values())
        for prompt, entry in zip(tuple(unshown.values()), entries, strict=True):
            (running if self._known.runs(prompt) else pending).append(Row.known(entry))


def _joined(
    answers: Mapping[Instance, ScannedAnswer],
) -> tuple[ScannedAnswer, tuple[list[Row], list[Row], set[Instance]] | None]:
    """All queues as one, and whose they are; None if nobody gave any. Reads only: a thread may do
    it."""
    like, queues = native.usable(answers, lambda answer: read_queue(answer.root))
    if not queues:
        return like, None
    running, pending = _join([(answers[one], queue) for one, queue in queues.items()])
    return like, (running, pending, set(queues))


def _join(queues: Sequence[tuple[ScannedAnswer, Queue]]) -> tuple[list[Row], list[Row]]:
    """Running and pending entries; of an id that several instances show only the furthest.

    An id twice on ONE instance stays two prompts: ComfyUI runs one as often as it is posted
    (PROTOCOL.md trap 9). What has no id is shown as it came.
    """
    running: list[Row] = []
    pending: list[Row] = []
    seen: set[str | None] = set()
    for answer, one in queues:
        running += [Row.told(entry, answer) for entry in one.running if entry.prompt_id not in seen]
        seen |= {row.prompt_id for row in running} - {None}
    for answer, one in queues:
        mine = {entry.prompt_id for entry in one.running}
        new = [one for one in one.pending if one.prompt_id not in seen or one.prompt_id in mine]
        pending += [Row.told(entry, answer) for entry in new]
        seen |= {row.prompt_id for row in pending} - {None}
    return running, pending
