"""The webhooks in the file: what a job's end is to be posted to, and what is still to be posted.

A record is written with its job, so the URL is known after a restart; again at the job's end, in
one transaction with that end, now with the body; and deleted when the webhook is over. A kill
between a receiver's answer and that deletion makes it come once more: at least once, not exactly.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from loguru import logger
from yarl import URL

from comfy_proxy.jobs.job_manager import JobManager
from comfy_proxy.lenient_json import dumps, loads
from comfy_proxy.metrics.records import WebhookOutcome
from comfy_proxy.state.store import StateStore
from comfy_proxy.webhooks.delivery import Delivery
from comfy_proxy.webhooks.webhooks import Webhooks

WEBHOOK: Final = "webhook"
"""The kind of these values in the store; their keys are the jobs' ids."""


class WebhookState:
    """Observes ``webhooks`` once :meth:`restore` was called."""

    def __init__(self, store: StateStore, webhooks: Webhooks) -> None:
        self._store = store
        self._webhooks = webhooks

    async def restore(self) -> None:
        """To be called before jobs are restored, for one of them may end by that: the webhooks of
        ended jobs are sent, those of the others wait for them. Write what changes from then on."""
        deliveries = self._webhooks.deliveries
        deliveries.keeps = True
        self._webhooks.on_wanted.append(self._wanted)
        deliveries.on_pending.append(self._pending)
        deliveries.on_over.append(self._over)
        for job_id, data in await self._store.entries(WEBHOOK):
            try:
                self._restore(job_id, loads(data))
            except (KeyError, TypeError, ValueError) as error:
                logger.error("the webhook of job {} cannot be read: {!r}", job_id, type(error))
                self._store.delete(WEBHOOK, job_id)

    def forget_jobless(self, jobs: JobManager) -> None:
        """To be called when jobs are restored: forget what waits for a job that there is not."""
        for job_id in list(self._webhooks.wanted):
            job = jobs.find_job(job_id)
            if job is None or job.finished:
                del self._webhooks.wanted[job_id]
                self._store.delete(WEBHOOK, job_id)

    def _restore(self, job_id: str, record: dict[str, Any]) -> None:
        url = self._webhooks.allowed(record["url"])
        if url is None:
            logger.bind(job_id=job_id).error(
                "the webhook of job {} is given up: its host is no longer allowed", job_id
            )
            self._store.delete(WEBHOOK, job_id)
        elif record["body"] is None:
            self._webhooks.wanted[job_id] = url
        else:
            ended_at = datetime.fromtimestamp(record["ended_at"], UTC)
            body = record["body"].encode()
            self._webhooks.deliveries.add(
                Delivery(job_id=job_id, url=url, body=body, ended_at=ended_at)
            )

    def _wanted(self, wanted: tuple[str, URL]) -> None:
        job_id, url = wanted
        self._store.put(WEBHOOK, job_id, dumps({"url": str(url), "body": None}))

    def _pending(self, delivery: Delivery) -> None:
        record = {
            "url": str(delivery.url),
            "body": delivery.body.decode(),
            "ended_at": delivery.ended_at.timestamp(),
        }
        self._store.put(WEBHOOK, delivery.job_id, dumps(record))

    def _over(self, over: tuple[Delivery, WebhookOutcome]) -> None:
        delivery, _ = over
        self._store.delete(WEBHOOK, delivery.job_id)
