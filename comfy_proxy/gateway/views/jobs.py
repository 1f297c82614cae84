"""ComfyUI's own ``/api/jobs`` (2026) of all instances as one list: filtered, sorted, paged once.

Each instance is asked for the beginning of its list, as long as the page may need, with the
client's own filters and order; the page is cut from the lists put together. An instance without
the route is left out; if none has it, or the query is wrong, the answer is an instance's own. For
one that cannot be asked stands what the ledger knows to wait and run there, and what was kept of
its history; a header names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web
from multidict import MultiDict

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_jobs import (
    ENDED,
    Job,
    JobList,
    failed_job,
    pagination,
    pending_job,
    running_job,
)
from comfy_proxy.cluster.prompt_lists import MOST_ITEMS
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.full_collections import NoFullCollection
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange import pieces as parts
from comfy_proxy.gateway.exchange.fanout import Answer, ask_all
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.missing import name_missing, unasked
from comfy_proxy.gateway.exchange.pieces import Piece
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.gateway.views.history_entries import OwnEntries, is_given_up
from comfy_proxy.gateway.views.history_keeper import Losses
from comfy_proxy.gateway.views.kept_entries import KeptEntries
from comfy_proxy.gateway.views.listed_jobs import ListedJob, OwnJob, ReadPage
from comfy_proxy.gateway.views.queue_rows import LedgerRows
from comfy_proxy.json_steps import made_in_turns
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.transit import MAX_LOOKS
from comfy_proxy.lenient_json import dumps_exact

JOBS_AT_ONCE: Final = 1_000
"""Jobs that are joined before the event loop has its turn; that takes half a millisecond."""


class MergedJobs:
    """The jobs of all instances, those on their way between two, those that ended at none
    (``own_history``), and what is known here of instances that lack theirs (``known`` to wait or
    run, ``kept`` of those that have ended). What they tell of files is noted in ``made_files``."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        known: LedgerRows,
        *,
        own_history: OwnEntries,
        kept: KeptEntries,
        losses: Losses,
        made_files: MadeFiles,
        storage: SharedStorage,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._known = known
        self._own_history = own_history
        self._kept = kept
        self._losses = losses
        self._made_files = made_files
        self._storage = storage
        self._second_tries = SecondTries.of(cluster, ledger)
        self.views: Views = {"/jobs": self.answer}

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /api/jobs``."""
        page = _Page.of(request)
        if page is None:  # ComfyUI's own 400
            return await forward_balanced(request, self._cluster)
        for looks_left in reversed(range(MAX_LOOKS)):
            with self._ledger.transit.watch() as moved:
                answers = await ask_all(self._cluster, "GET", f"/api/jobs?{page.of_each()}")
                pages = await self._read(answers, by_duration=page.by_duration)
                found, total = await self._join(pages)
            if not pages or any(answer.status == 400 for answer in answers.values()):
                return native.relayed(_refusal(answers, next(iter(answers.values()))))
            like = answers[next(iter(pages))]
            absent = [prompt for id_, prompt in moved.items() if id_ not in found]
            if not looks_left or all(prompt.in_transit for prompt in absent):
                break  # else one has arrived since: it is at its place now
        without_route = {one for one, answer in answers.items() if answer.status == 404}
        answered = without_route | pages.keys()
        missing = unasked(self._cluster, answered)
        name_missing(like, missing)
        absent = [prompt for prompt in absent if not prompt.ended and not prompt.deleted]
        own = await self._own(page, found, [*absent, *self._known.at(missing)], answered)
        listed = [OwnJob.of(job, by_duration=page.by_duration) for job in own]
        shown, told = page.cut([*found.values(), *listed], total + len(own))
        self._losses.shown(job.id for job in shown if job.progress == ENDED)
        texts = await made_in_turns(job.shown(self._storage) for job in shown)
        pieces: list[Piece] = [
            b'{"jobs": [',
            *await parts.listed([text] for text in texts),
            b'], "pagination": ',
            dumps_exact(told),
            b"}",
        ]
        return await native.reply_pieces(request, pieces, like)

    async def _read(
        self, answers: Mapping[Instance, Answer], *, by_duration: bool
    ) -> dict[Instance, ReadPage]:
        """What each instance lists that gave a page."""
        pages = {}
        for instance, answer in answers.items():
            if answer.status != 200:
                continue
            jobs = JobList(answer.body)
            page = ReadPage(quiet=NoFullCollection.for_bytes(len(answer.body)))
            with suppress(ValueError):
                for some in jobs.steps():
                    self._made_files.jobs_read([job for job, _ in some], instance)
                    for job, span in some:
                        if self._is_on_its_way(job, instance):
                            page.left_out += 1
                        else:
                            listed = ListedJob.of(job, by_duration=by_duration)
                            listed.place_in(answer.body, span, instance)
                            page.jobs.append(listed)
                    await asyncio.sleep(0)
                page.total = jobs.total - page.left_out
                pages[instance] = page
        return pages

    def _is_on_its_way(self, job: Job, instance: Instance) -> bool:
        """It has not ended at ``instance``, whatever that says: it goes on, or is at another."""
        is_first = self._second_tries.job_goes_on(job, instance)
        return is_first or is_given_up(job["id"], instance, self._ledger)

    async def _join(self, pages: Mapping[Instance, ReadPage]) -> tuple[dict[str, ListedJob], int]:
        """All jobs by id, and how many there are on all pages.

        An id that two instances show (it moved meanwhile) is one job, and has got as far as it
        shows.
        """
        total = sum(page.total for page in pages.values())
        found: dict[str, ListedJob] = {}
        for page in pages.values():
            for number, job in enumerate(page.jobs, 1):
                other = found.get(job.id)
                total -= other is not None
                if other is None or other.progress < job.progress:
                    found[job.id] = job
                if number % JOBS_AT_ONCE == 0:
                    await asyncio.sleep(0)
        return found, total

    async def _own(
        self,
        page: _Page,
        found: Mapping[str, ListedJob],
        prompts: Iterable[Prompt],
        answered: Container[Instance],
    ) -> list[Job]:
        """What is not ``found`` at any instance: ``prompts`` that are on their way or where nobody
        can be asked, and those that have ended; as far as the filters let them pass."""
        absent = {prompt.prompt_id: prompt for prompt in prompts if prompt.prompt_id not in found}
        entries = await self._known.entries(absent.values())
        jobs = [
            running_job(entry) if self._known.runs(absent[entry[1]]) else pending_job(entry)
            for entry in entries
        ]
        jobs += [failed_job(entry) for entry in self._own_history.entries().values()]
        kept = self._kept.standing_in(answered)
        jobs += [
            one.job() for one in kept if one.prompt_id not in absent and one.prompt_id not in found
        ]
        return [job for job in jobs if page.wants(job)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Page:
    """What a client asks for; values that ComfyUI would refuse by itself are left to it."""

    query: MultiDict[str]
    limit: int | None
    offset: int

    @classmethod
    def of(cls, request: web.Request) -> _Page | None:
        """None if ``limit`` or ``offset`` is no number, or ``limit`` below 1: ComfyUI says no."""
        query = request.rel_url.query
        try:
            limit = int(query["limit"]) if "limit" in query else None
            offset = max(0, int(query.get("offset", 0)))
        except ValueError:
            return None
        if limit is not None and limit <= 0:
            return None
        return cls(query=MultiDict(query), limit=limit, offset=offset)

    def of_each(self) -> str:
        """The query for one instance: everything from the start to the end of the page."""
        query = MultiDict(self.query)
        query.popall("offset", None)
        if self.limit is not None:
            query["limit"] = str(min(self.offset + self.limit, MOST_ITEMS))
        return urlencode(list(query.items()))

    def wants(self, job: Job) -> bool:
        """Whether the filters let ``job`` pass."""
        workflow_id = self.query.get("workflow_id")
        if workflow_id and job.get("workflow_id") != workflow_id:
            return False
        if "ids" in self.query and job["id"] not in _names(self.query["ids"]):
            return False
        statuses = _names(self.query.get("status", "").lower())
        return not statuses or job["status"] in statuses

    @property
    def by_duration(self) -> bool:
        """Sorted by how long they took, and not by when they were created."""
        return self.query.get("sort_by", "").lower() == "execution_duration"

    def cut(self, jobs: list[ListedJob], total: int) -> tuple[list[ListedJob], dict[str, Any]]:
        """The jobs to show, and what is told of the page; ties stay in the order of ``jobs``."""
        descending = self.query.get("sort_order", "").lower() != "asc"
        jobs.sort(key=attrgetter("place"), reverse=descending)
        end = None if self.limit is None else self.offset + self.limit
        shown = jobs[self.offset : end]
        return shown, pagination(len(shown), offset=self.offset, limit=self.limit, total=total)


def _refusal(answers: Mapping[Instance, Answer], like: Answer) -> Answer:
    """The answer to relay: that of the first instance which has the route, if there is one."""
    return next((answer for answer in answers.values() if answer.status == 400), like)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
