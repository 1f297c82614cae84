"""The results of finished jobs, bounded in sum."""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger

from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.results import result_file
from comfy_proxy.jobs.results.result_file import Results
from comfy_proxy.observers import tell


class KeptResults:
    """They share ``max_size`` bytes (MAX_RESULTS_SIZE), in memory and in temporary files.

    Beyond, the oldest are dropped: ``results`` of their jobs are None then, and asking for them is
    answered 410. The newest stay, whatever their size.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._jobs: dict[str, Job] = {}  # oldest first
        self.size = 0
        self.on_dropped: list[Callable[[Job], None]] = []

    def __repr__(self) -> str:
        return f"<KeptResults {len(self._jobs)}, {self.size} of {self._max_size} bytes>"

    def keep(self, job: Job, results: Results) -> None:
        """Give ``results`` to ``job``, and drop the oldest ones if there is no room for them."""
        job.results = results
        self._jobs[job.id] = job
        self.size += result_file.size_of(results)
        while self.size > self._max_size and len(self._jobs) > 1:
            self._drop(next(iter(self._jobs.values())))

    def release(self, job: Job) -> None:
        """Forget its bytes. A client that is being sent them still gets them all."""
        if self._jobs.pop(job.id, None) is not None and job.results is not None:
            self.size -= result_file.size_of(job.results)
            result_file.close(job.results)

    def _drop(self, job: Job) -> None:
        self.release(job)
        job.results = None
        logger.bind(job_id=job.id).warning("the result was dropped to bound the memory")
        tell(self.on_dropped, job)
