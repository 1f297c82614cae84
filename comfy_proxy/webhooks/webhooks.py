"""Which jobs have a webhook, and what it says at their end.

Jobs know nothing of it: ``webhook_url`` is an option of a request
(``jobs/requests/request_fields.py``), checked before its job is made, and the end of a job is what
the JobManager tells its observers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from yarl import URL

from comfy_proxy.allowed_hosts import read_allowed_url
from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs import views
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.requests.request_fields import WEBHOOK_URL
from comfy_proxy.jobs.service import JobService
from comfy_proxy.lenient_json import dumps
from comfy_proxy.observers import tell
from comfy_proxy.settings import Settings
from comfy_proxy.webhooks.deliveries import Deliveries
from comfy_proxy.webhooks.delivery import Delivery
from comfy_proxy.webhooks.receivers import Receivers

LAST_TRIES_S: Final = 8.0
"""Seconds for the last tries at the end of the proxy, or SHUTDOWN_TIMEOUT if that is less. Service
managers are told to give it ten seconds beyond what it takes for jobs and for open requests."""
_SETTING: Final = "WEBHOOK_ALLOWED_HOSTS"


class Webhooks:
    """One for each application; it watches the jobs of ``jobs`` from the beginning.

    ``wanted`` are the URLs of unfinished jobs that have one, by job id; ``on_wanted`` hear of a
    new one, with both. ``mount`` gives the path under which another application has us, or ""; the
    URLs that are told begin with ROOT_PATH and that.
    """

    def __init__(self, settings: Settings, jobs: JobService) -> None:
        self._settings = settings
        self._jobs = jobs
        self._receivers = Receivers(settings.webhook_secrets, clock=jobs.clock)
        self.deliveries = Deliveries(self._receivers.post, clock=jobs.clock)
        self.wanted: dict[str, URL] = {}
        self.on_wanted: list[Callable[[tuple[str, URL]], None]] = []
        self.mount: Callable[[], str] = str
        jobs.checks.append(self.check)
        jobs.manager.on_created.append(self._created)
        jobs.manager.on_finished.append(self._finished)

    async def start(self) -> None:
        """Before the first job ends; nothing is opened without WEBHOOK_ALLOWED_HOSTS."""
        if self._settings.webhook_allowed_hosts:
            await self._receivers.start()

    async def close(self) -> None:
        """After the last job has ended. Returns within LAST_TRIES_S."""
        await self.deliveries.close(min(self._settings.shutdown_timeout_s, LAST_TRIES_S))
        await self._receivers.close()

    def check(self, request: JobRequest) -> None:
        """Raises InvalidFieldError if ``request`` names a URL to which nothing may be sent."""
        if WEBHOOK_URL in request.options:
            self._url_of(request)

    def allowed(self, text: str) -> URL | None:
        """``text``, of an earlier process, as a URL; None if it is no longer allowed."""
        try:
            return read_allowed_url(text, self._settings.webhook_allowed_hosts)
        except ValueError:
            return None

    def _url_of(self, request: JobRequest) -> URL:
        allowed = self._settings.webhook_allowed_hosts
        details = {"setting": _SETTING}
        if not allowed:
            message = f"{WEBHOOK_URL} is not taken here: {_SETTING} names no host."
            raise InvalidFieldError(WEBHOOK_URL, message, details=details)
        try:
            return read_allowed_url(request.options[WEBHOOK_URL], allowed)
        except ValueError as error:
            message = f"{WEBHOOK_URL} {error} ({_SETTING} says what is)."
            raise InvalidFieldError(WEBHOOK_URL, message, details=details) from None

    def _created(self, job: Job) -> None:
        if WEBHOOK_URL in job.request.options:
            url = self.wanted[job.id] = self._url_of(job.request)
            tell(self.on_wanted, (job.id, url))

    def _finished(self, job: Job) -> None:
        url = self.wanted.pop(job.id, None)
        if url is None or job.completed_at is None:
            return
        root = (self._settings.root_path or "") + self.mount()
        body = dumps(views.status(job, self._jobs, root))
        self.deliveries.add(Delivery(job_id=job.id, url=url, body=body, ended_at=job.completed_at))
