"""``Client``: the job API for code without an event loop. A client may be used by threads."""

from __future__ import annotations

import builtins
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from httpx_sse import EventSource, ServerSentEvent

from comfy_proxy.client.downloads import fetch, save
from comfy_proxy.client.effects import (
    Answer,
    Call,
    Do,
    Effect,
    Emit,
    NextChunk,
    Open,
    Operation,
    Send,
    Sleep,
    Steps,
)
from comfy_proxy.client.errors import ClientError, UnreachableError
from comfy_proxy.client.models import Event, ResultInfo, Status, Workflow
from comfy_proxy.client.operations import (
    cancel_job,
    completed,
    follow_job,
    job_results,
    job_status,
    list_jobs,
    list_workflows,
    wait_for_end,
)
from comfy_proxy.client.policy import Policy
from comfy_proxy.client.submission import get_workflow, submit
from comfy_proxy.client.transport import Target, head_of, http_client, target, translated
from comfy_proxy.client.uploads import FileInput

T = TypeVar("T")


class Client:
    """The proxy at ``base_url``, which may have a path (``https://site/comfy``).

    ``api_key`` is sent as ``X-API-Key``; ``policy`` says for how long it tries and waits;
    ``verify`` is an SSL context, False to trust anybody, True to trust whom the system trusts (and
    SSL_CERT_FILE). All methods raise ClientError. Close it when it is done with, or use it as a
    context manager.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:3000",
        api_key: str | None = None,
        *,
        policy: Policy | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.policy = policy or Policy()
        self._target = target(base_url, api_key, self.policy, verify)
        self._http = http_client(httpx.Client, self._target)

    def __repr__(self) -> str:
        return f"<Client {self._target.shown}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def submit(
        self,
        workflow: str,
        /,
        *files: FileInput,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> Job:
        """Make a job of ``workflow``.

        ``files`` are its file parameters in their order; by name they are keywords
        (``mask=Path("m.png")``), like all other parameters. It is sent again if the connection
        breaks, and is one job all the same. Raises OSError if a file cannot be opened.
        """
        making = submit(workflow, files, parameters, key=idempotency_key, policy=self.policy)
        accepted = self.perform(making)
        return Job(self, accepted.job_id, accepted)

    def run(self, workflow: str, /, *files: FileInput, **parameters: Any) -> Job:
        """:meth:`submit` and wait; returns the job once it has completed. Raises JobFailedError.

        If that is interrupted the job is cancelled.
        """
        job = self.submit(workflow, *files, **parameters)
        try:
            self.perform(completed(job.id, self.policy))
        except ClientError:
            raise
        except BaseException:
            with suppress(ClientError):
                job.cancel()
            raise
        return job

    def job(self, job_id: str) -> Job:
        """The job of that id; nothing is asked yet."""
        return Job(self, job_id)

    def jobs(self, *, status: str | None = None, workflow: str | None = None) -> list[Status]:
        """The jobs that the proxy knows, those with that status and of that workflow."""
        return self.perform(list_jobs(self.policy, status, workflow))

    def workflows(self) -> list[Workflow]:
        """What can be submitted."""
        return self.perform(list_workflows(self.policy))

    def workflow(self, name: str) -> Workflow:
        """One of :meth:`workflows`."""
        return self.perform(get_workflow(name, self.policy))

    def perform(self, operation: Operation[T]) -> T:
        """Run an operation of this package to its end; returns its value."""
        run, steps = _Run(self._http, self._target), Steps(operation)
        try:
            while not steps.done:
                _step(run, steps)
        finally:
            run.close()
            steps.close()
        return steps.value

    def iterate(self, operation: Operation[None]) -> Iterator[Any]:
        """What an operation emits."""
        run, steps = _Run(self._http, self._target), Steps(operation)
        try:
            while not steps.done:
                if isinstance(steps.effect, Emit):
                    yield steps.effect.value
                    steps.feed(None)
                else:
                    _step(run, steps)
        finally:
            run.close()
            steps.close()


class Job:
    """A job at the proxy. ``accepted`` is what was said when it was submitted, else None."""

    def __init__(self, client: Client, job_id: str, accepted: Status | None = None) -> None:
        self.id = job_id
        self.accepted = accepted
        self._client = client

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def status(self) -> Status:
        """How it is now."""
        return self._client.perform(job_status(self.id, self._client.policy))

    def wait(self, timeout_s: float | None = None) -> Status:
        """Its status at its end, completed or failed, or as it is after ``timeout_s`` seconds."""
        waiting = wait_for_end(self.id, self._client.policy, timeout_s)
        return self._client.perform(waiting)

    def progress(self, *, previews: bool = False) -> Iterator[Event]:
        """Its events as they come, the last one ``completed`` or ``failed``; over broken
        connections too."""
        following = follow_job(self.id, self._client.policy, previews=previews)
        return self._client.iterate(following)

    def results(self) -> list[Result]:
        """What it has made, waited for. Raises JobFailedError if it failed."""
        found = self._client.perform(job_results(self.id, self._client.policy))
        return [Result(self._client, info, path) for info, path in found]

    def result(self) -> Result:
        """The first of :meth:`results`: for workflows that make one file."""
        return self.results()[0]

    def cancel(self) -> bool:
        """End it wherever it is, and let the proxy forget it; False if it is forgotten already."""
        return self._client.perform(cancel_job(self.id, self._client.policy))


class Result:
    """A file that a job has made; ``info`` tells its size."""

    def __init__(self, client: Client, info: ResultInfo, path: str) -> None:
        self.info = info
        self.name = info.name
        self.type = info.type
        self.media_type = info.media_type
        self._client = client
        self._path = path

    def __repr__(self) -> str:
        return f"<Result {self.name} {self.media_type}>"

    def bytes(self) -> builtins.bytes:
        """All of it, in memory."""
        return self._client.perform(fetch(self._path, self._client.policy))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to ``path``, under its own name if that is a directory; returns the file's path.
        A file there is replaced once all has come, a FIFO or device is written into; not more than
        a piece is in memory."""
        saving = save(self._path, self.name, path, self._client.policy)
        return self._client.perform(saving)


def _step(run: _Run, steps: Steps[T]) -> None:
    try:
        outcome = run.perform(steps.effect)
    except UnreachableError as error:
        steps.fail(error)
    else:
        steps.feed(outcome)


class _Run:
    """The I/O of one operation, which has one open answer at most."""

    def __init__(self, http: httpx.Client, target: Target) -> None:
        self._http = http
        self._target = target
        self._open = ExitStack()
        self._chunks: Iterator[bytes] = iter(())
        self._events: Iterator[ServerSentEvent] = iter(())

    def perform(self, effect: Effect) -> Any:
        match effect:
            case Sleep(seconds):
                return time.sleep(seconds)
            case Do(function):
                return function()
        with translated(self._target, self._http):
            match effect:
                case Send(call):
                    return self._send(call)
                case Open(call):
                    return self._open_answer(call)
                case NextChunk():
                    return next(self._chunks, None)
                case _:
                    return next(self._events, None)

    def close(self) -> None:
        self._open.close()

    def _send(self, call: Call) -> Answer:
        response = self._http.send(self._target.request(self._http, call))
        return head_of(response, response.content)

    def _open_answer(self, call: Call) -> Answer:
        self.close()
        request = self._target.request(self._http, call)
        response = self._http.send(request, stream=True)
        self._open.callback(response.close)
        if response.status_code != 200:
            return head_of(response, response.read())
        self._chunks = response.iter_bytes()
        self._events = EventSource(response).iter_sse()
        return head_of(response)
