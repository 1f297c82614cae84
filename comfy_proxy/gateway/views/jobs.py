"""ComfyUI's own ``/api/jobs`` (2026) of all instances as one list: filtered, sorted, paged once.

Each instance is asked for the beginning of its list, as long as the page may need, with the
client's own filters and order; the page is cut from the lists put together. An instance without
the route is left out; if none has it, or the query is wrong, the answer is an instance's own. For
one that cannot be asked stands what the ledger knows to wait and run there, and what was kept of
its history; a header names it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from multidict import MultiDict

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_jobs import (
    OUTPUTS,
    Job,
    JobPage,
    failed_job,
    in_order,
    in_turn,
    jobs_answer,
    pending_job,
    progress,
    read_jobs,
    running_job,
)
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer, ask_all
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.missing import name_missing, unasked
from comfy_proxy.gateway.exchange.pieces import Piece
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.gateway.views.history_entries import OwnEntries, is_given_up, prefixed
from comfy_proxy.gateway.views.kept_entries import KeptEntries
from comfy_proxy.gateway.views.queue_rows import LedgerRows
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.transit import MAX_LOOKS


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
        made_files: MadeFiles,
        storage: SharedStorage,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._known = known
        self._own_history = own_history
        self._kept = kept
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
                read = partial(native.usable, answers, _jobs_in)
                like, pages = await native.off_loop(answers, read)
                found, total = self._join(pages)
            if not pages or any(answer.status == 400 for answer in answers.values()):
                return native.relayed(_refusal(answers, like))
            absent = [prompt for id_, prompt in moved.items() if id_ not in found]
            if not looks_left or all(prompt.in_transit for prompt in absent):
                break  # else one has arrived since: it is at its place now
        without_route = {one for one, answer in answers.items() if answer.status == 404}
        answered = without_route | pages.keys()
        missing = unasked(self._cluster, answered)
        name_missing(like, missing)
        absent = [prompt for prompt in absent if not prompt.ended and not prompt.deleted]
        own = await self._own(page, found, [*absent, *self._known.at(missing)], answered)
        body = page.cut([*found.values(), *own], total + len(own))
        return native.reply(body, like)

    def _join(self, pages: Mapping[Instance, JobPage]) -> tuple[dict[str, Job], int]:
        """All jobs by id, and how many there are on all pages.

        An id that two instances show (it moved meanwhile) is one job, and has got as far as it
        shows.
        """
        total = sum(page.total for page in pages.values())
        found: dict[str, Job] = {}
        for instance, page in pages.items():
            self._made_files.jobs_read(page.jobs, instance)
            for job in page.jobs:
                is_first = self._second_tries.job_goes_on(job, instance)
                if is_first or is_given_up(job["id"], instance, self._ledger):
                    total -= 1  # it has not ended: it is on its way, or at another one
                    continue
                other = found.get(job["id"])
                total -= other is not None
                if other is None or progress(other) < progress(job):
                    found[job["id"]] = prefixed_job(job, instance, self._storage)
        return found, total

    async def _own(
        self,
        page: _Page,
        found: Mapping[str, Job],
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
        kept, known = self._kept.standing_in(answered), absent.keys() | found.keys()
        jobs += [one.job() for one in kept if one.prompt_id not in known]
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
            query["limit"] = str(self.offset + self.limit)
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

    def cut(self, jobs: list[Job], total: int) -> dict[str, Any]:
        """The body of the answer; ties stay in the order of ``jobs``."""
        by_duration = self.query.get("sort_by", "").lower() == "execution_duration"
        ascending = self.query.get("sort_order", "").lower() == "asc"
        jobs = in_order(jobs, by_duration=by_duration, ascending=ascending)
        end = None if self.limit is None else self.offset + self.limit
        shown = [in_turn(job) for job in jobs[self.offset : end]]
        return jobs_answer(shown, offset=self.offset, limit=self.limit, total=total)


def prefixed_text(answer: ScannedAnswer, instance: Instance, storage: SharedStorage) -> list[Piece]:
    """The job in an answer scanned for JOB, with the instance in the names of its outputs."""
    assert answer.root is not None
    places = [answer.root.get(name.encode()) for name in OUTPUTS]
    changes = [change for one in places if (change := prefixed(one, instance, storage))]
    return answer.body.replaced(sorted(changes))


def prefixed_job(job: Job, instance: Instance, storage: SharedStorage) -> Job:
    """``job`` with the instance in the names of its outputs."""
    named = {key: job[key] for key in OUTPUTS if key in job}
    return {**job, **{key: storage.prefixed(value, instance) for key, value in named.items()}}


def _refusal(answers: Mapping[Instance, Answer], like: Answer) -> Answer:
    """The answer to relay: that of the first instance which has the route, if there is one."""
    return next((answer for answer in answers.values() if answer.status == 400), like)


def _jobs_in(answer: Answer) -> JobPage | None:
    return read_jobs(native.load(answer))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
