"""One job from its first place to its picture: attempts, moves, and what may be tried again.

An attempt goes: place at an instance (scheduler) → workflow variant that the instance can run →
upload → prompt → picture → conversion. If an instance fails, the next attempt avoids it if there is
a choice; an error of the workflow ends the job. ``cluster/retry_law.py`` bounds the attempts. A job
that ran out of memory has one more try, which counts against no instance.
"""

from __future__ import annotations

from concurrent.futures import Executor
from uuid import uuid4

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.gpu_memory import once_more
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.capabilities import KEEP_LACK_S
from comfy_proxy.cluster.output_file import ResultFileLostError
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.retry_law import Tries
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.cluster.waiter import Waiter
from comfy_proxy.errors import (
    ComfyProxyError,
    GpuMemoryError,
    InstanceDiedError,
    InstanceError,
    PromptLostError,
    PromptRejectedError,
    ResultFrameLostError,
    WorkflowUnavailableError,
)
from comfy_proxy.jobs.job_manager import JobManager
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.jobs.results.conversion import make_results
from comfy_proxy.jobs.results.raw_results import RawResults
from comfy_proxy.jobs.results.result_file import Results
from comfy_proxy.jobs.runs.availability import Availability
from comfy_proxy.jobs.runs.job_prompts import JobPrompts
from comfy_proxy.jobs.runs.overheads import Overheads
from comfy_proxy.jobs.runs.tracker import Tracker, tell_moved
from comfy_proxy.jobs.workflows.plan import Plan
from comfy_proxy.jobs.workflows.workflow import Workflow
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.metrics.records import PromptEvent
from comfy_proxy.tracing import about


class JobRun:
    """The work on one job; :meth:`run` once."""

    def __init__(
        self,
        job: Job,
        *,
        manager: JobManager,
        cluster: Cluster,
        prompts: JobPrompts,
        workflow: Workflow,
        overheads: Overheads,
        executor: Executor,
        cached_at: Instance | None = None,
    ) -> None:
        self.job = job
        self._manager = manager
        self._cluster = cluster
        self._prompts = prompts
        self._prompt: Prompt | None = None
        self._workflow = workflow
        self._overheads = overheads
        self._executor = executor
        # Since when it has no place, for PENDING_TIMEOUT; its instance may have died late.
        self._since = job.created_monotonic
        self._tries = Tries()
        self._failed_on: set[Instance] = set()
        self._cached_at = cached_at
        self._runs_anew = False
        self._rejected_by: set[Instance] = set()
        self._sent: Plan | None = None
        self._out_of_memory_at: Instance | None = None
        self._availability = Availability(cluster, workflow, job.request)
        self._placement: Placement | None = None
        self._placed_at = 0.0
        self._converts = False
        self._run_s = ByInstance[tuple[int, float | None]]()
        self.waiter = Waiter(
            rank=job.created_monotonic,
            turn=cluster.scheduler.door.shares.begin(job.request.client),
            work_at=self._availability.work_at,
            accepts=self._availability.may_run,
        )

    @property
    def seat(self) -> Placement | None:
        """Its place at an instance; None while it waits for one, and once it has given it back."""
        return self._placement or self.waiter.seat

    @property
    def waits(self) -> bool:
        """It waits for a place at the door of the instances, or is about to."""
        waiter = self.waiter
        return self._placement is None and waiter.placement is None and waiter.tried is None

    @property
    def executed(self) -> bool:
        """ComfyUI is done with it; the picture is fetched and converted."""
        seat, prompt = self._placement, self._prompt
        has_ended = seat is not None and prompt is seat.key and prompt is not None and prompt.ended
        return has_ended or self._converts

    def run_s_at(self, instance: Instance) -> float | None:
        """Seconds that ComfyUI takes for it at ``instance`` with its models loaded, None if nothing
        is known of that. As quick as a lookup until something else is learned."""
        costs = self._cluster.planner.costs
        known = self._run_s.get(instance)
        if known is None or known[0] != costs.version:
            work = self._availability.work_at(instance)
            if work is None:
                return None
            known = self._run_s[instance] = costs.version, costs.run_s(instance, work)
        return known[1]

    async def run(self) -> Results:
        """The finished results. Raises a ComfyProxyError when the job is to fail."""
        try:
            return await self._run()
        finally:
            self._prompts.abandon(self._prompt)

    async def _run(self) -> Results:
        moved_to: Placement | None = None
        while True:
            placement = self._placement = moved_to or await self._place()
            self._placed_at = self._cluster.clock.monotonic()
            moved_to = None
            try:
                made = await self._attempt(placement)
                if isinstance(made, tuple):
                    return await self._convert(made)
                self._placement = made
                # The prompt was deleted at the old place; the new one is checked before it is used.
                if await self._cluster.scheduler.confirm(made):
                    moved_to = made
                    self._tell_move(made)
                    continue
            except ComfyProxyError as error:
                await self._raise_unless_worth_another_try(error, placement)
            self._placement, self._converts = None, False
            if self.job.status is JobStatus.PROCESSING:
                self._since = self._cluster.clock.monotonic()
                self._manager.update_job_status(self.job.id, JobStatus.PENDING)

    def _tell_move(self, place: Placement) -> None:
        job, target = self.job, place.instance
        logger.bind(instance=target.host).info("job {} moved to {}", job.id, target.host)
        tell_moved(job, place, self._manager)
        self._cluster.tell_prompt(PromptEvent.MOVED, target, job.prompt_id, job_type=job.type)

    async def _place(self) -> Placement:
        self._availability.require()
        self.waiter.avoid = self._avoided()
        return await self._cluster.scheduler.place_of(self.waiter, self._since)

    def _avoided(self) -> set[Instance]:
        """It goes there only if it can go nowhere else."""
        if self._cached_at is not None and self._cached_at.healthy:
            return {one for one in self._cluster.instances if one is not self._cached_at}
        if self._out_of_memory_at is None:
            return self._failed_on
        memory = self._cluster.gpu_memory
        return self._failed_on | memory.too_small(
            self._out_of_memory_at, self._availability.may_run
        )

    async def _raise_unless_worth_another_try(
        self, error: ComfyProxyError, placement: Placement
    ) -> None:
        instance = placement.instance
        if isinstance(error, WorkflowUnavailableError):
            return  # the next place is elsewhere: _place passes over an instance that lacks this
        if isinstance(error, PromptRejectedError) and instance not in self._rejected_by:
            self._rejected_by.add(instance)
            if await self._availability.may_differ(instance, self._sent, self._rejected_by):
                self._failed_on.add(instance)
                return
        if isinstance(error, GpuMemoryError):
            await self._free_memory(error, instance)
            return
        if not isinstance(error, InstanceError):
            raise error
        if isinstance(error, ResultFrameLostError):
            self._cached_at = instance  # all but the frame with the picture is there
        else:
            self._failed_on.add(instance)
            self._cached_at = None
            # Somebody has removed it, and the same prompt tells of it again from its cache.
            self._runs_anew = self._runs_anew or isinstance(error, ResultFileLostError)
        ran = placement.running or isinstance(error, InstanceDiedError)
        restarted = isinstance(error, PromptLostError)
        answers = not (ran or restarted) and await self._cluster.health_checker.check(instance)
        self._tries.failed(error, ran=ran, answers=answers, node=self.job.current_node)
        logger.bind(instance=instance.host, prompt_id=self.job.prompt_id).warning(
            "job {}: failure {}: {}", self.job.id, self._tries.failures, error
        )

    async def _free_memory(self, error: GpuMemoryError, instance: Instance) -> None:
        """It runs once more, at an instance with more memory if there is one. Raises ``error`` if
        it has done so already."""
        if self._out_of_memory_at is not None:
            raise once_more(error) from error
        self._out_of_memory_at = instance
        logger.bind(instance=instance.host, prompt_id=self.job.prompt_id).warning(
            "job {}: once more after its memory is freed: {}", self.job.id, error
        )
        await self._cluster.gpu_memory.free(instance)

    async def _attempt(self, placement: Placement) -> RawResults | Placement:
        """One try at one instance; returns the results as ComfyUI made them."""
        instance = placement.instance
        try:
            hang_watch = self._cluster.hang_watch
            with hang_watch.over(instance, replaceable=True):
                plan = self._sent = await self._plan(instance)
            if self.job.status is JobStatus.PENDING:
                self._manager.update_job_status(
                    self.job.id,
                    JobStatus.PROCESSING,
                    instance=instance.host,
                    placement=placement.decision,
                )
            self.job.variant = plan.variant
            with hang_watch.over(instance, replaceable=True):
                graph = plan.build(await self._upload(instance))
            graph = graph.run_anew(uuid4().hex) if self._runs_anew else graph
            tracker = Tracker(self.job, placement, self._manager)
            self._prompt = self._prompts.prompt_of(
                self.job, self._prompt, self._availability.work_at(instance)
            )
            run = self._prompts.run(placement, graph, self._prompt, tracker.update)
            with about(instance=instance.host, prompt_id=run.prompt_id):
                logger.opt(lazy=True).debug(
                    "job {}: a prompt at {}: {}",
                    lambda: self.job.id,
                    lambda: instance.host,
                    lambda: placement.decision,
                )
                made = await run.run()
        finally:
            placement.release()
        return made

    async def _plan(self, instance: Instance) -> Plan:
        """The variant that ``instance`` runs, with its values.

        Raises WorkflowUnavailableError if it can run none; before that it is asked anew, because a
        model file may have been added since.
        """
        infos = self.job.request.infos
        capabilities = await self._cluster.capabilities.get(instance)
        try:
            return self._workflow.choose(capabilities, infos, self.job.data)
        except WorkflowUnavailableError:
            fresh = await self._cluster.capabilities.get(instance, newer_than_s=KEEP_LACK_S)
            return self._workflow.choose(fresh, infos, self.job.data)

    async def _upload(self, instance: Instance) -> dict[str, str]:
        """Upload the files byte for byte; returns the instance's name for each, by parameter.

        They are named by their hashes, so that the same file is on an instance's disk only once:
        files there cannot be deleted (PROTOCOL.md trap 11).
        """
        names: dict[str, str] = {}
        for parameter, input_file in self.job.request.files.items():
            with input_file.open() as file:
                names[parameter] = await self._cluster.clients[instance].upload_file(
                    file,
                    name=f"{input_file.digest[:32]}{input_file.info.extension}",
                    size=input_file.size,
                )
        return names

    async def _convert(self, raw: RawResults) -> Results:
        self._converts = True
        job = self.job
        results = await make_results(
            raw,
            self._workflow.convert_options(job.data),
            stem=f"{job.type}-{job.id[:8]}",
            executor=self._executor,
        )
        attempt = None if self._prompt is None else self._prompt.attempt
        if attempt is not None and attempt.accepted_at and attempt.ended_at:
            self._overheads.record(
                job.type,
                before_s=attempt.accepted_at - self._placed_at,
                after_s=self._cluster.clock.monotonic() - attempt.ended_at,
            )
        return results
