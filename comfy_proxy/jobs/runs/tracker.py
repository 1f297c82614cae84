"""What is told of a job while it is at an instance."""

from __future__ import annotations

from comfy_proxy.cluster.placement import Placement
from comfy_proxy.jobs.job_manager import JobManager
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.runs.prompt_execution import Phase, PromptExecution


class Tracker:
    """Copies what one prompt reports into its job."""

    def __init__(self, job: Job, placement: Placement, manager: JobManager) -> None:
        self._job = job
        self._placement = placement
        self._manager = manager
        self._begun = False

    def update(self, execution: PromptExecution) -> None:
        self._begun |= execution.phase is Phase.RUNNING
        self._manager.update_progress(
            self._job,
            instance=self._placement.instance.host,
            placement=self._placement.decision,
            prompt_id=execution.prompt_id,
            percentage=round(execution.percentage, 1),
            current_node=execution.current_node,
            executing=self._begun,
            preview=execution.preview,
        )


def tell_moved(job: Job, placement: Placement, manager: JobManager) -> None:
    """It waits at another instance from now on, and has not begun."""
    manager.update_progress(
        job,
        instance=placement.instance.host,
        placement=placement.decision,
        prompt_id=job.prompt_id or "",
        percentage=0.0,
        current_node=None,
        executing=False,
    )
