"""``Idempotency-Key``: the same request sent twice makes one job."""

from __future__ import annotations

from comfy_proxy.errors import IdempotencyConflictError
from comfy_proxy.jobs.model import Job


class IdempotencyKeys:
    """The job that each key has made; a key is free again when its job is forgotten."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def __repr__(self) -> str:
        return f"<IdempotencyKeys {len(self._jobs)}>"

    def find(self, key: str, fingerprint: str) -> Job | None:
        """The job that was made with this ``key``, None if there is none.

        Raises IdempotencyConflictError if it was made with another ``fingerprint``.
        """
        job = self._jobs.get(key)
        if job is not None and job.request.fingerprint != fingerprint:
            raise IdempotencyConflictError(
                "This Idempotency-Key was used with another request.",
                details={"field": "Idempotency-Key"},
            )
        return job

    def note(self, job: Job) -> None:
        """``job`` was made; nothing to note if it has no key."""
        if job.idempotency_key is not None:
            self._jobs[job.idempotency_key] = job

    def forget(self, job: Job) -> None:
        """``job`` is forgotten."""
        if job.idempotency_key is not None:
            self._jobs.pop(job.idempotency_key, None)
