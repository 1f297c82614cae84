"""The pictures of finished jobs, bounded in memory."""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger

from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.pictures import Picture
from comfy_proxy.observers import tell


class KeptResults:
    """They share ``max_size`` bytes (MAX_RESULTS_SIZE).

    Beyond, the oldest is dropped, and its job says so; the newest stays, whatever its size.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._jobs: dict[str, Job] = {}  # oldest first
        self.size = 0
        self.on_dropped: list[Callable[[Job], None]] = []

    def __repr__(self) -> str:
        return f"<KeptResults {len(self._jobs)}, {self.size} of {self._max_size} bytes>"

    def keep(self, job: Job, picture: Picture) -> None:
        """Give ``picture`` to ``job``, and drop the oldest ones if there is no room for it."""
        job.keep_result(picture)
        self._jobs[job.id] = job
        self.size += len(picture.data)
        while self.size > self._max_size and len(self._jobs) > 1:
            self._drop(next(iter(self._jobs.values())))

    def release(self, job: Job) -> None:
        """Count its bytes no longer. A client that is being sent them still holds them."""
        if self._jobs.pop(job.id, None) is not None and job.result is not None:
            self.size -= len(job.result.data)

    def _drop(self, job: Job) -> None:
        self.release(job)
        job.result = None
        job.result_dropped = True
        logger.bind(job_id=job.id).warning("the result was dropped to bound the memory")
        tell(self.on_dropped, job)
