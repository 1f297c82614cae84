"""``Idempotency-Key``: the same request sent twice makes one job, and gets the same answer."""

from __future__ import annotations

import asyncio

from comfy_proxy.comfy_api.jobs import Job
from comfy_proxy.errors import IdempotencyConflictError


class Keys:
    """The job of each owner's key, from the moment in which its submission begins until the job is
    forgotten, or was taken by nobody."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], tuple[Job, asyncio.Future[None]]] = {}

    def __repr__(self) -> str:
        return f"<Keys {len(self._jobs)}>"

    def claim(self, job: Job) -> Job | None:
        """The job that was made with the key of ``job`` before; None if ``job`` has it now.

        Raises IdempotencyConflictError if that was another request.
        """
        if job.key is None:
            return None
        known = self._jobs.get((job.owner, job.key))
        if known is None:
            self._jobs[job.owner, job.key] = job, asyncio.get_running_loop().create_future()
            return None
        if known[0].fingerprint != job.fingerprint:
            raise IdempotencyConflictError(
                "This Idempotency-Key was used with another request.",
                details={"field": "Idempotency-Key"},
            )
        return known[0]

    def restore(self, job: Job) -> None:
        """``job`` is one of before this process."""
        if job.key is not None:
            over = asyncio.get_running_loop().create_future()
            over.set_result(None)
            self._jobs[job.owner, job.key] = job, over

    async def over(self, job: Job) -> None:
        """Return when the submission of ``job`` is over, however it went."""
        if job.key is not None and (known := self._jobs.get((job.owner, job.key))) is not None:
            await asyncio.shield(known[1])

    def submitted(self, job: Job) -> None:
        """The submission of ``job`` is over; the key stays with it."""
        known = None if job.key is None else self._jobs.get((job.owner, job.key))
        if known is not None and not known[1].done():
            known[1].set_result(None)

    def forget(self, job: Job) -> None:
        """``job`` is forgotten, or nobody took it: the key is free."""
        self.submitted(job)
        if job.key is not None:
            known = self._jobs.get((job.owner, job.key))
            if known is not None and known[0] is job:
                del self._jobs[job.owner, job.key]
