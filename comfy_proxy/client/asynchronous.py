"""``AsyncClient``: the job API for code on an asyncio event loop."""

from __future__ import annotations

import asyncio
import builtins
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, suppress
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


class AsyncClient:
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
        self._http = http_client(httpx.AsyncClient, self._target)

    def __repr__(self) -> str:
        return f"<AsyncClient {self._target.shown}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def submit(
        self,
        workflow: str,
        /,
        *files: FileInput,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> AsyncJob:
        """Make a job of ``workflow``.

        ``files`` are its file parameters in their order; by name they are keywords
        (``mask=Path("m.png")``), like all other parameters. It is sent again if the connection
        breaks, and is one job all the same. Raises OSError if a file cannot be opened.
        """
        making = submit(workflow, files, parameters, key=idempotency_key, policy=self.policy)
        accepted = await self.perform(making)
        return AsyncJob(self, accepted.job_id, accepted)

    async def run(self, workflow: str, /, *files: FileInput, **parameters: Any) -> AsyncJob:
        """:meth:`submit` and wait; returns the job once it has completed. Raises JobFailedError.

        If that is interrupted the job is cancelled.
        """
        job = await self.submit(workflow, *files, **parameters)
        try:
            await self.perform(completed(job.id, self.policy))
        except ClientError:
            raise
        except BaseException:
            with suppress(ClientError):
                await job.cancel()
            raise
        return job

    def job(self, job_id: str) -> AsyncJob:
        """The job of that id; nothing is asked yet."""
        return AsyncJob(self, job_id)

    async def jobs(self, *, status: str | None = None, workflow: str | None = None) -> list[Status]:
        """The jobs that the proxy knows, those with that status and of that workflow."""
        return await self.perform(list_jobs(self.policy, status, workflow))

    async def workflows(self) -> list[Workflow]:
        """What can be submitted."""
        return await self.perform(list_workflows(self.policy))

    async def workflow(self, name: str) -> Workflow:
        """One of :meth:`workflows`."""
        return await self.perform(get_workflow(name, self.policy))

    async def perform(self, operation: Operation[T]) -> T:
        """Run an operation of this package to its end; returns its value."""
        run, steps = _Run(self._http, self._target), Steps(operation)
        try:
            while not steps.done:
                await _step(run, steps)
        finally:
            await run.close()
            steps.close()
        return steps.value

    async def iterate(self, operation: Operation[None]) -> AsyncGenerator[Any, None]:
        """What an operation emits."""
        run, steps = _Run(self._http, self._target), Steps(operation)
        try:
            while not steps.done:
                if isinstance(steps.effect, Emit):
                    yield steps.effect.value
                    steps.feed(None)
                else:
                    await _step(run, steps)
        finally:
            await run.close()
            steps.close()


class AsyncJob:
    """A job at the proxy. ``accepted`` is what was said when it was submitted, else None."""

    def __init__(self, client: AsyncClient, job_id: str, accepted: Status | None = None) -> None:
        self.id = job_id
        self.accepted = accepted
        self._client = client

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id}>"

    async def status(self) -> Status:
        """How it is now."""
        return await self._client.perform(job_status(self.id, self._client.policy))

    async def wait(self, timeout_s: float | None = None) -> Status:
        """Its status at its end, completed or failed, or as it is after ``timeout_s`` seconds."""
        waiting = wait_for_end(self.id, self._client.policy, timeout_s)
        return await self._client.perform(waiting)

    def progress(self, *, previews: bool = False) -> AsyncGenerator[Event, None]:
        """Its events as they come, the last one ``completed`` or ``failed``; over broken
        connections too."""
        following = follow_job(self.id, self._client.policy, previews=previews)
        return self._client.iterate(following)

    async def results(self) -> list[AsyncResult]:
        """What it has made, waited for. Raises JobFailedError if it failed."""
        found = await self._client.perform(job_results(self.id, self._client.policy))
        return [AsyncResult(self._client, info, path) for info, path in found]

    async def result(self) -> AsyncResult:
        """The first of :meth:`results`: for workflows that make one file."""
        return (await self.results())[0]

    async def cancel(self) -> bool:
        """End it wherever it is, and let the proxy forget it; False if it is forgotten already."""
        return await self._client.perform(cancel_job(self.id, self._client.policy))


class AsyncResult:
    """A file that a job has made; ``info`` tells its size."""

    def __init__(self, client: AsyncClient, info: ResultInfo, path: str) -> None:
        self.info = info
        self.name = info.name
        self.type = info.type
        self.media_type = info.media_type
        self._client = client
        self._path = path

    def __repr__(self) -> str:
        return f"<AsyncResult {self.name} {self.media_type}>"

    async def bytes(self) -> builtins.bytes:
        """All of it, in memory."""
        return await self._client.perform(fetch(self._path, self._client.policy))

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to ``path``, under its own name if that is a directory; returns the file's path.
        A file there is replaced once all has come, a FIFO or device is written into; not more than
        a piece is in memory."""
        saving = save(self._path, self.name, path, self._client.policy)
        return await self._client.perform(saving)


async def _step(run: _Run, steps: Steps[T]) -> None:
    try:
        outcome = await run.perform(steps.effect)
    except UnreachableError as error:
        steps.fail(error)
    else:
        steps.feed(outcome)


class _Run:
    """The I/O of one operation, which has one open answer at most."""

    def __init__(self, http: httpx.AsyncClient, target: Target) -> None:
        self._http = http
        self._target = target
        self._open = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] = _nothing()
        self._events: AsyncIterator[ServerSentEvent] = _nothing()

    async def perform(self, effect: Effect) -> Any:
        match effect:
            case Sleep(seconds):
                return await asyncio.sleep(seconds)
            case Do(function):
                return await asyncio.to_thread(function)
        with translated(self._target, self._http):
            match effect:
                case Send(call):
                    return await self._send(call)
                case Open(call):
                    return await self._open_answer(call)
                case NextChunk():
                    return await anext(self._chunks, None)
                case _:
                    return await anext(self._events, None)

    async def close(self) -> None:
        await self._open.aclose()

    async def _send(self, call: Call) -> Answer:
        response = await self._http.send(self._target.request(self._http, call))
        return head_of(response, response.content)

    async def _open_answer(self, call: Call) -> Answer:
        await self.close()
        request = self._target.request(self._http, call)
        response = await self._http.send(request, stream=True)
        self._open.push_async_callback(response.aclose)
        if response.status_code != 200:
            return head_of(response, await response.aread())
        self._chunks = response.aiter_bytes()
        self._events = EventSource(response).aiter_sse()
        return head_of(response)


async def _nothing() -> AsyncGenerator[Any, None]:
    """The end at once."""
    return
    yield
