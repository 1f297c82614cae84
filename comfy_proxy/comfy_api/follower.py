"""What becomes of jobs: heard of the ledger and of their instances' frames, and read at their end.

A job has ended for its client when its outputs are known: ComfyUI writes them into its history a
moment after it has told the end, and a client that is told "succeeded" asks no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Final

from loguru import logger

from comfy_proxy.cluster.comfyui_frames import decode_binary
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_outcomes import cached_nodes, messages_of
from comfy_proxy.comfy_api.doors import Doors
from comfy_proxy.comfy_api.job_errors import job_error
from comfy_proxy.comfy_api.jobs import Job, JobBook, JobStatus
from comfy_proxy.comfy_api.outputs import (
    MAX_OF_JOB,
    Output,
    node_outputs,
    outputs_in_turns,
    outputs_of,
)
from comfy_proxy.errors import ComfyProxyError
from comfy_proxy.gateway.events.frames import Executed, OfPrompt, Pass
from comfy_proxy.gateway.events.listener import Heard
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End
from comfy_proxy.ledger.states import Ending, State
from comfy_proxy.tracing import untraced

SETTLE_S: Final = 10.0
"""Seconds that the entry of a job that has ended has to be in its instance's history. Beyond them
the job has ended with the outputs of which frames have told."""
SIZES_AT_ONCE: Final = 8
"""Files whose sizes are asked for at the same time, of one job."""
SIZES_S: Final = 2.0
"""Seconds that the sizes of what a job has made have to be told, all together. Beyond them those
that were not told are 0: an instance that loads the next model answers nothing for longer."""
_STATUSES: Final[Mapping[Ending, JobStatus]] = {
    Ending.SUCCESS: JobStatus.SUCCEEDED,
    Ending.ERROR: JobStatus.FAILED,
    Ending.LOST: JobStatus.FAILED,
    Ending.INTERRUPTED: JobStatus.CANCELED,
    Ending.CANCELLED: JobStatus.CANCELED,
    Ending.VANISHED: JobStatus.FAILED,
    Ending.REPLACED: JobStatus.EXPIRED,
}
_WITHOUT_ENTRY: Final = (Ending.CANCELLED, Ending.VANISHED, Ending.REPLACED)


class Follower:
    """Keeps the records of ``jobs`` up to date; an observer of the ledger and of the frames."""

    def __init__(self, jobs: JobBook, ledger: Ledger, doors: Doors) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._doors = doors
        self._clock = doors.cluster.clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: set[str] = set()
        self._looking: dict[str, set[asyncio.Task[None]]] = {}
        self._closed = False

    def observe(self, change: Change) -> None:
        """A change of the ledger."""
        prompt = change.prompt
        if change.old is not change.new:
            self._jobs.queue_changed()
        job = self._jobs.find(prompt.prompt_id)
        if job is None or job.end is not None or self._closed:
            return
        if change.is_end:
            end = prompt.end
            if end is not None and end.ending in _STATUSES:
                self._settling.add(job.id)
                settling = self._begin(self._settle(job, end, self._clock.now()))
                settling.add_done_callback(lambda task: self._settling.discard(job.id))
            return
        if isinstance(change.event, events.Sent):
            # What an instance made that has lost it half way is no part of its next run.
            for task in self._looking.get(job.id, ()):
                task.cancel()
            self._jobs.drop_outputs(job)
        job.runs = change.new is State.RUNNING
        if job.runs and job.started is None:
            job.started = self._clock.now()
        if change.old is not change.new or isinstance(change.event, events.Deleted):
            job.changed()

    def heard(self, heard: Heard) -> None:
        """A frame of an instance."""
        seen, instance = heard.seen, heard.instance
        if isinstance(seen, Pass):
            self._preview(seen, instance)
            return
        if not isinstance(seen, OfPrompt) or seen.prompt_id is None:
            return
        job = self._jobs.find(seen.prompt_id)
        if job is None or job.end is not None or job.progress is None or self._closed:
            return
        if isinstance(seen, Executed) and seen.node is not None:
            shown = self._doors.storage.prefixed(seen.output, instance)
            made = node_outputs(job.id, seen.node, shown, self._doors.secret)
            left = max(0, MAX_OF_JOB - len(job.outputs))
            new = islice((one for one in made if one.id not in job.outputs), left)
            task = self._begin(self._add(job, new))
            looking = self._looking.setdefault(job.id, set())
            looking.add(task)
            task.add_done_callback(partial(self._looked, job.id))
        if job.progress.heard(seen):
            job.frames += 1
            job.changed()

    async def resolve(self, job: Job) -> None:
        """Find out what has become of a job of whose prompt nothing is on record: this process is a
        new one. Nothing is done for any other. Raises NoHealthyInstanceError."""
        if job.end is not None or not job.accepted or job.id in self._settling:
            return
        if self._ledger.find(job.id) is None:
            self._settling.add(job.id)
            try:
                await self._resolve(job)
            finally:
                self._settling.discard(job.id)

    async def _resolve(self, job: Job) -> None:
        if (entry := await self._doors.ended.entry(job.id)) is not None:
            await self._settle(job, End(ending=_ending(entry)), self._clock.now())
        elif (place := await self._doors.ended.place(job.id)) is not None:
            job.runs = place
        else:
            self._end(job, JobStatus.EXPIRED, None, self._clock.now())

    async def close(self) -> None:
        """Look for nothing any more: prompts still end while the rooms below are closed, and nobody
        could be asked what they have made. The next process resolves them."""
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- its end -------------------------------------------------------------------------------

    async def _settle(self, job: Job, end: End, now: datetime) -> None:
        entry = None
        if end.ending not in _WITHOUT_ENTRY:
            try:
                await self._doors.ended.settled(job.id, SETTLE_S)
                entry = await self._doors.ended.entry(job.id)
            except ComfyProxyError as error:
                logger.info("the end of job {} cannot be read: {}", job.id, error.message)
            await asyncio.gather(*self._looking.get(job.id, ()), return_exceptions=True)
        told, ending = {} if entry is None else _messages(entry), end.ending
        if ending is Ending.SUCCESS and "execution_error" in told:
            ending = Ending.ERROR  # what it made was lost before anybody could read it
            self._jobs.drop_outputs(job)
        if entry is not None:
            told_there = entry.get("outputs")
            outputs = await outputs_in_turns(outputs_of(job.id, told_there, self._doors.secret))
            sized = await self._sized([job.outputs.get(one.id, one) for one in outputs])
            self._jobs.note_outputs(job, sized)
        job.reused = job.reused or bool(cached_nodes(told.get("execution_cached")))
        if job.started is None and end.ending not in _WITHOUT_ENTRY:
            job.started = now - timedelta(seconds=end.execution_s or 0.0)
        why = None
        if _STATUSES[ending] is JobStatus.FAILED:
            hosts = tuple(self._doors.cluster.instances)
            why = job_error(end, told.get("execution_error"), hosts)
        self._end(job, _STATUSES[ending], why, now)

    def _end(
        self, job: Job, status: JobStatus, error: Mapping[str, Any] | None, now: datetime
    ) -> None:
        if job.end is not None:
            return
        if job.progress is not None:
            is_success = status is JobStatus.SUCCEEDED
            progress = job.progress
            job.last_progress = progress.finished() if is_success else progress.snapshot()
        job.completed, job.error, job.end, job.progress = now, error, status, None
        self._jobs.ended(job)

    # --- outputs and previews ------------------------------------------------------------------

    async def _add(self, job: Job, outputs: Iterable[Output]) -> None:
        """A node has made these just now."""
        sized = await self._sized(await outputs_in_turns(outputs))
        if job.end is None:
            self._jobs.note_outputs(job, sized)
            job.changed()

    async def _sized(self, outputs: Iterable[Output]) -> list[Output]:
        """``outputs`` with their sizes, as far as these are told within SIZES_S."""
        found = list(outputs)
        deadline, left = self._clock.monotonic() + SIZES_S, iter(range(len(found)))

        async def look() -> None:
            for at in left:
                found[at] = await self._with_size(found[at], deadline)

        await asyncio.gather(*(look() for _ in range(min(SIZES_AT_ONCE, len(found)))))
        return found

    async def _with_size(self, output: Output, deadline: float) -> Output:
        left_s = deadline - self._clock.monotonic()
        if output.file is None or output.size is not None or left_s <= 0:
            return output
        try:
            async with self._clock.timeout(left_s):
                found = await self._doors.file_view.find(output.file)
        except (ComfyProxyError, TimeoutError):
            return output
        return output if found is None else replace(output, size=found.size)

    def _looked(self, job_id: str, task: asyncio.Task[None]) -> None:
        looking = self._looking.get(job_id, set())
        looking.discard(task)
        if not looking:
            self._looking.pop(job_id, None)

    def _preview(self, seen: Pass, instance: Instance) -> None:
        """One that names no prompt (of an old server) is of the one that runs there."""
        if not isinstance(seen.data, bytes):
            return
        picture = decode_binary(seen.data)
        if picture is None:
            return
        running = self._ledger.running(instance)
        prompt_id = picture.prompt_id or (running.prompt_id if running is not None else "")
        job = self._jobs.find(prompt_id)
        if job is not None and job.watchers and job.end is None:
            job.preview = picture
            job.frames += 1
            job.changed()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, context=untraced())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, ComfyProxyError):
                logger.info("what became of a job is not known: {}", error.message)
            else:
                logger.opt(exception=error).error("following a job failed")


def _ending(entry: Mapping[str, Any]) -> Ending:
    told = _messages(entry)
    if "execution_interrupted" in told:
        return Ending.INTERRUPTED
    status = entry.get("status")
    failed = isinstance(status, Mapping) and status.get("status_str") == "error"
    return Ending.ERROR if failed or "execution_error" in told else Ending.SUCCESS


def _messages(entry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    try:
        return messages_of(entry)
    except (AttributeError, TypeError):
        return {}
