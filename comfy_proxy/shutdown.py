"""The last minutes of the proxy, while its door is still open.

For SHUTDOWN_TIMEOUT at most new jobs and prompts are refused (503) and ``/health/ready`` says so,
but status, results and sockets are served, so that clients get what they wait for. That time ends
sooner when nothing that was accepted is left. What comes after it is in ``app.py``.
"""

from __future__ import annotations

import asyncio
from typing import Final

from loguru import logger

from comfy_proxy.clock import sleep, wait_until
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.errors import DrainingError
from comfy_proxy.jobs.job_processor import JobProcessor
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger

RESULTS_S: Final = 2.0
"""Seconds for which the door stays open after the last job has ended, within the grace period, so
that clients which ask once a second see the end and can fetch the result."""


class Shutdown:
    """``begun`` once the proxy is told to end; it is never taken back."""

    def __init__(self) -> None:
        self.begun = False

    def check_open(self) -> None:
        """Raises DrainingError if no new prompt is taken any more."""
        if self.begun:
            raise DrainingError("The proxy is stopping and takes no new prompts.", retry_after_s=5)

    async def finish(
        self, cluster: Cluster, ledger: Ledger, jobs: JobProcessor, grace_s: float
    ) -> None:
        """Refuse what is new; return when all that was accepted has ended, or after ``grace_s``."""
        self.begun = jobs.draining = True
        deadline = cluster.clock.monotonic() + grace_s
        if not cluster.several and grace_s > 0:
            await cluster.learn_load(cluster.instances[0])
        left = _Left(cluster, ledger, jobs)
        waited_for_jobs = bool(jobs.runs)
        if left.count:
            logger.info("stopping: {} have up to {:g} s; new ones are refused", left, grace_s)
        if not await left.over(deadline):
            logger.warning("the grace period of {:g} s is over: {} are not done", grace_s, left)
        elif waited_for_jobs:
            left_s = deadline - cluster.clock.monotonic()
            await sleep(cluster.clock, max(0.0, min(RESULTS_S, left_s)))


class _Left:
    """What was accepted and has not ended: our jobs, and clients' prompts, waiting ones too."""

    def __init__(self, cluster: Cluster, ledger: Ledger, jobs: JobProcessor) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._jobs = jobs
        self._changed = asyncio.Event()
        jobs.on_end.append(self._changed.set)
        ledger.observers.append(self._hear)
        cluster.instances.each(lambda one: one.prompts.on_load.append(self._changed.set))

    def __str__(self) -> str:
        return f"{len(self._jobs.runs)} jobs and {self._prompts} prompts"

    @property
    def count(self) -> int:
        return len(self._jobs.runs) + self._prompts

    async def over(self, deadline: float) -> bool:
        """Return when nothing is left; False if something is at ``deadline`` (monotonic)."""
        clock = self._cluster.clock
        left_s = deadline - clock.monotonic()
        return await wait_until(clock, lambda: not self.count, self._changed, left_s)

    @property
    def _prompts(self) -> int:
        """With a single instance clients' prompts pass unread, and the length of its queue counts,
        whoever filled it."""
        if not self._cluster.several:
            return self._cluster.instances[0].prompts.of_clients
        return sum(prompt.job is None for prompt in self._ledger.live())

    def _hear(self, change: Change) -> None:
        self._changed.set()
