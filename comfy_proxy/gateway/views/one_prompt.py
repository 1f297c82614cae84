"""What is asked of one prompt by the id in the path: its entry of the history, its job."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_jobs import JOB, failed_job, pending_job, read_job
from comfy_proxy.cluster.prompt_lists import HISTORY, HistoryEntry, read_history
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.pieces import joined, listed
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_all_scanned
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.gateway.views.history_entries import (
    OwnEntries,
    OwnEntry,
    ShownEntry,
    is_first_try,
)
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.gateway.views.jobs import prefixed_text
from comfy_proxy.gateway.views.owner import Asking, PromptOwners
from comfy_proxy.json_scanner import Shape
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.transit import MAX_LOOKS


class OnePrompt:
    """Answers as the instance that has the prompt; of one that ended at no instance as if one had
    it (``own_history``)."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        owners: PromptOwners,
        *,
        own_history: OwnEntries,
        made_files: MadeFiles,
        storage: SharedStorage,
        numbers: HistoryNumbers,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._owners = owners
        self._own_history = own_history
        self._made_files = made_files
        self._storage = storage
        self._numbers = numbers
        self._second_tries = SecondTries.of(cluster, ledger)
        self.views: Views = {
            "/history/{prompt_id}": self.history,
            "/jobs/{prompt_id}": self.job,
        }

    async def history(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /history/{id}``: its entry; ``{}`` while it has none, and if nobody knows it."""
        prompt_id = match.variables["prompt_id"]
        if (own := self._own_history.entry(prompt_id)) is not None:
            pieces = OwnEntry(prompt_id=prompt_id, entry=own).numbered(self._numbers)
            body = joined([b"{", *pieces, b"}"])
            return web.Response(body=body, content_type="application/json", charset="utf-8")
        asking = self._asking(f"/history/{quote(prompt_id, safe='')}", HISTORY)
        instance, answer = await self._owners.find(prompt_id, asking, _entries)
        if not (entries := _entries(answer)):
            return await native.relayed_scanned(request, answer)
        if any(is_first_try(one, instance, self._second_tries) for one in entries):
            return await native.reply_pieces(request, [b"{}"], answer)
        self._made_files.note([self._made_files.in_scanned(one, instance) for one in entries])
        shown = [ShownEntry.of(entry, answer, instance, self._storage) for entry in entries]
        texts = [entry.numbered(self._numbers) for entry in shown]
        return await native.reply_pieces(request, [b"{", *listed(texts), b"}"], answer)

    async def job(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /api/jobs/{id}``: ComfyUI's own job (2026).

        A prompt on its way between two instances is a waiting job. If it has arrived before it was
        asked for there, all are asked again, up to MAX_LOOKS times.
        """
        prompt_id = match.variables["prompt_id"]
        asking = self._asking(f"/api/jobs/{quote(prompt_id, safe='')}", JOB)
        for _ in range(MAX_LOOKS):
            with self._ledger.transit.watch() as moved:
                instance, answer = await self._owners.find(prompt_id, asking, _is_object)
                job = read_job(answer.root) if _is_object(answer) else None
                is_first = job is not None and self._second_tries.job_goes_on(job, instance)
            if job is not None and not is_first:
                self._made_files.jobs_read([job], instance)
                shown = prefixed_text(answer, instance, self._storage)
                return await native.reply_pieces(request, shown, answer)
            like = Answer(status=200, headers=answer.headers, body=b"")
            if _knows_jobs(answer) and (own := self._own_history.entry(prompt_id)) is not None:
                return native.reply(failed_job(own), like)
            prompt = self._ledger.find(prompt_id) if is_first else moved.get(prompt_id)
            if prompt is None or not _may_move(prompt, answer):
                break
            if prompt.in_transit and prompt.queue_entry is not None:
                return native.reply(pending_job(prompt.queue_entry), like)
        return await native.relayed_scanned(request, answer)

    def _asking(self, path: str, shape: Shape) -> Asking[ScannedAnswer]:
        async def asking(instances: list[Instance]) -> dict[Instance, ScannedAnswer]:
            return await ask_all_scanned(self._cluster, path, shape, instances=instances)

        return asking


def _entries(answer: ScannedAnswer) -> list[HistoryEntry]:
    return read_history(answer.root) or []


def _is_object(answer: ScannedAnswer) -> bool:
    return answer.root is not None and answer.root.is_object


def _may_move(prompt: Prompt, answer: ScannedAnswer) -> bool:
    """Whether a 404 is to be doubted."""
    return _knows_jobs(answer) and not prompt.deleted


def _knows_jobs(answer: ScannedAnswer) -> bool:
    """False for a 404 in plain text: that of a server without the route."""
    return answer.headers.get("content-type", "").startswith("application/json")
