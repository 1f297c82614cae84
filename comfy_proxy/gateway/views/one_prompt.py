"""What is asked of one prompt by the id in the path: its entry of the history, its job."""

from __future__ import annotations

from collections.abc import Container, Sequence
from urllib.parse import quote

from aiohttp import hdrs, web
from multidict import CIMultiDict

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_jobs import (
    JOB,
    Job,
    failed_job,
    pending_job,
    read_job,
    running_job,
)
from comfy_proxy.cluster.prompt_lists import HISTORY_TO_KEEP, HistoryEntry, read_history
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.missing import name_missing, unasked
from comfy_proxy.gateway.exchange.pieces import listed
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_all_scanned
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.gateway.views.history_entries import (
    EndsSeen,
    OwnEntries,
    OwnEntry,
    ShownEntry,
    is_first_try,
)
from comfy_proxy.gateway.views.history_keeper import HistoryKeeper
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.gateway.views.kept_entries import KeptEntry
from comfy_proxy.gateway.views.kept_files import stands_in
from comfy_proxy.gateway.views.listed_jobs import prefixed_text
from comfy_proxy.gateway.views.owner import Asking, PromptOwners, Told, away
from comfy_proxy.gateway.views.queue_rows import LedgerRows
from comfy_proxy.json_scanner import Shape
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.transit import MAX_LOOKS


class OnePrompt:
    """Answers as the instance that has the prompt.

    For a prompt that ended at no instance the answer is made here (``own_history``). For one whose
    instance cannot be asked, or has lost it, it is what was kept (``keeper``). While only an
    instance that cannot be asked knows how a prompt ended the answer is 503: ``{}`` or 404 would
    say that the prompt is lost.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        owners: PromptOwners,
        known: LedgerRows,
        *,
        own_history: OwnEntries,
        ends_seen: EndsSeen,
        keeper: HistoryKeeper,
        made_files: MadeFiles,
        storage: SharedStorage,
        numbers: HistoryNumbers,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._owners = owners
        self._known = known
        self._own_history = own_history
        self._ends_seen = ends_seen
        self._keeper = keeper
        self._kept = keeper.entries
        self._made_files = made_files
        self._storage = storage
        self._numbers = numbers
        self._second_tries = SecondTries.of(cluster, ledger)
        self.views: Views = {
            "/history/{prompt_id}": self.history,
            "/jobs/{prompt_id}": self.job,
        }

    async def history(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /history/{id}``: the entry of that prompt; ``{}`` while there is none, and if
        nobody knows the prompt.

        Raises UnavailableError while only an instance that is away has it.
        """
        prompt_id = match.variables["prompt_id"]
        if (own := self._own_history.entry(prompt_id)) is not None:
            return await self._shown(request, OwnEntry(prompt_id=prompt_id, entry=own))
        kept = self._kept.find(prompt_id)
        if kept is not None:
            at = kept.instance
            if at is None or not await self._cluster.health_checker.answers(at):
                return await self._shown(request, kept, [at] if at else [])
        asking = self._asking(f"/history/{quote(prompt_id, safe='')}", HISTORY_TO_KEEP)
        asked_at = self._cluster.clock.monotonic()
        try:
            told = await self._owners.find(prompt_id, asking, _entries)
        except NoHealthyInstanceError:
            if kept is None:
                raise
            return await self._shown(request, kept, self._cluster.instances)
        if _entries(told.answer):
            return await self._read(request, prompt_id, told, asked_at)
        if kept is not None and await stands_in(kept, told.asked, self._kept, self._cluster):
            return await self._shown(request, kept, unasked(self._cluster, told.asked))
        if (own := self._own_history.entry(prompt_id)) is not None:  # made just now
            return await self._shown(request, OwnEntry(prompt_id=prompt_id, entry=own))
        if (owner := self._owners.ended_away(prompt_id, told.asked)) is not None:
            raise away(owner)
        return await native.relayed_scanned(request, told.answer)

    async def _read(
        self, request: web.Request, prompt_id: str, told: Told[ScannedAnswer], asked_at: float
    ) -> web.StreamResponse:
        """Answer with the entry that an instance, which was asked at ``asked_at``, has told."""
        instance, answer, entries = told.instance, told.answer, _entries(told.answer)
        if any(is_first_try(one, instance, self._second_tries) for one in entries):
            return await native.reply_pieces(request, [b"{}"], answer)
        self._made_files.note([self._made_files.in_scanned(one, instance) for one in entries])
        read = {one.prompt_id: one for one in entries if one.prompt_id and one.value.is_object}
        is_reused = (prompt := self._ledger.find(prompt_id)) is not None and prompt.reused
        self._ends_seen(read, instance, read)
        if not is_reused:
            for entry in entries:
                await self._keeper.read(entry, answer, instance, asked_at, shown=True)
        self._keeper.losses.shown(read)
        shown = [ShownEntry.of(entry, answer, instance, self._storage) for entry in entries]
        texts = [entry.numbered(self._numbers) for entry in shown]
        return await native.reply_pieces(request, [b"{", *await listed(texts), b"}"], answer)

    async def _shown(
        self,
        request: web.Request,
        entry: OwnEntry | KeptEntry,
        missing: Sequence[Instance] = (),
    ) -> web.StreamResponse:
        """Answer with an entry that is kept here; ``missing`` could not be asked for it."""
        self._keeper.losses.shown([entry.prompt_id])
        headers = CIMultiDict({hdrs.CONTENT_TYPE: "application/json; charset=utf-8"})
        like = Answer(status=200, headers=headers, body=b"")
        name_missing(like, missing)
        pieces = [b"{", *entry.numbered(self._numbers), b"}"]
        return await native.reply_pieces(request, pieces, like)

    async def job(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /api/jobs/{id}``: ComfyUI's own job (2026).

        A prompt on its way between two instances is a waiting job. If it arrived somewhere while
        the instances were asked all are asked again, up to MAX_LOOKS times. Raises UnavailableError
        while only an instance that is away can tell of it.
        """
        prompt_id = match.variables["prompt_id"]
        asking = self._asking(f"/api/jobs/{quote(prompt_id, safe='')}", JOB)
        for _ in range(MAX_LOOKS):
            with self._ledger.transit.watch() as moved:
                told = await self._owners.find(prompt_id, asking, _is_object)
            instance, answer = told.instance, told.answer
            job = read_job(answer.root) if _is_object(answer) else None
            is_first = job is not None and self._second_tries.job_goes_on(job, instance)
            if job is not None and not is_first:
                self._made_files.jobs_read([job], instance)
                self._keeper.losses.shown([prompt_id] if job.get("execution_end_time") else [])
                shown = prefixed_text(answer, instance, self._storage)
                return await native.reply_pieces(request, shown, answer)
            if not _knows_jobs(answer):
                break
            here = await self._job_here(prompt_id, told.asked)
            if here is not None:
                like = Answer(status=200, headers=answer.headers, body=b"")
                name_missing(like, unasked(self._cluster, told.asked))
                return native.reply(here, like)
            if (prompt := moved.get(prompt_id)) is None or prompt.deleted:
                break
        return await native.relayed_scanned(request, answer)

    async def _job_here(self, prompt_id: str, asked: Container[Instance]) -> Job | None:
        """The job of a prompt that none of ``asked`` shows, as far as it is known here.

        Raises UnavailableError while only an instance that is away can tell of it.
        """
        if (own := self._own_history.entry(prompt_id)) is not None:
            return failed_job(own)
        kept = self._kept.find(prompt_id)
        if kept is not None and await stands_in(kept, asked, self._kept, self._cluster):
            self._keeper.losses.shown([prompt_id])
            return kept.whole_job(self._numbers)
        if (owner := self._owners.ended_away(prompt_id, asked)) is not None:
            raise away(owner)
        prompt = self._ledger.find(prompt_id)
        if prompt is None or prompt.deleted:
            return None
        if not prompt.in_transit and prompt.instance in asked:
            return None
        [entry] = await self._known.entries([prompt])
        return running_job(entry) if self._known.runs(prompt) else pending_job(entry)

    def _asking(self, path: str, shape: Shape) -> Asking[ScannedAnswer]:
        async def asking(instances: list[Instance]) -> dict[Instance, ScannedAnswer]:
            return await ask_all_scanned(self._cluster, path, shape, instances=instances)

        return asking


def _entries(answer: ScannedAnswer) -> list[HistoryEntry]:
    return read_history(answer.root) or []


def _is_object(answer: ScannedAnswer) -> bool:
    return answer.root is not None and answer.root.is_object


def _knows_jobs(answer: ScannedAnswer) -> bool:
    """False for a 404 in plain text: that of a server without the route."""
    return answer.headers.get("content-type", "").startswith("application/json")
