"""``POST /api/v2/jobs``: a request becomes a client's prompt, by the door of ``POST /prompt``.

So it goes to whichever instance finishes it first, with the files that it names, and goes on
elsewhere if that dies; its id is the job's.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Any, Final, TypeVar

from aiohttp import web

from comfy_proxy.bodies import read_client_body
from comfy_proxy.cluster.object_info.graph_support import MAX_INPUTS, MAX_NODES, is_readable
from comfy_proxy.cluster.prompt_answers import read_accepted, rejection, without_paths
from comfy_proxy.comfy_api import fields, references
from comfy_proxy.comfy_api.doors import Doors
from comfy_proxy.comfy_api.errors import UnprocessableError
from comfy_proxy.comfy_api.idempotency import Keys
from comfy_proxy.comfy_api.jobs import Job, JobBook, JobStatus
from comfy_proxy.comfy_api.priorities import Priorities
from comfy_proxy.errors import (
    InstanceError,
    InstanceRefusedError,
    InstanceTimeoutError,
    RequestError,
)
from comfy_proxy.full_collections import NoFullCollection
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.prompts.prompt_nesting import PromptNesting
from comfy_proxy.json_pieces import written
from comfy_proxy.json_signs import count_signs
from comfy_proxy.json_steps import VALUE_BYTES, in_turns, loads_in_steps, written_in_turns
from comfy_proxy.lenient_json import SORT_KEYS, dumps

T = TypeVar("T")

MAX_BODY_BYTES: Final = 16 * 2**20
"""Bytes of a request with a workflow; a longer one is answered 413. Pictures are assets, not parts
of the graph: as objects, which they have to be here for their references, 16 MiB take 160."""
MAX_SIGNS: Final = 2**17
"""Commas, colons and opening brackets of a request. A body with more of them is answered 422 before
it is read: a graph of a thousand nodes has some 30,000, and 12 MB of nested brackets held everybody
up for half a second at a time, and took 400 MB."""
LONG_BYTES: Final = 64 * 2**10
"""From so many bytes on what would take the event loop more than some milliseconds is done in
steps, or in a thread, and there is no full garbage collection meanwhile."""


class Submissions:
    """Takes jobs in; ``client_id`` is that of the client inside of the proxy that hears of them.
    ``resolve`` finds out what has become of a job of before this process."""

    def __init__(
        self,
        jobs: JobBook,
        keys: Keys,
        doors: Doors,
        resolve: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._jobs = jobs
        self._keys = keys
        self._resolve = resolve
        self._doors = doors
        self._priorities = Priorities(doors.cluster.clock)
        self._begun: set[asyncio.Task[None]] = set()
        self.client_id = ""

    async def submit(self, request: web.Request, owner: str, find: references.Find) -> Job:
        """The new job, or the one that the same request has made before.

        ``find`` finds the files of references. Raises RequestError, UnavailableError,
        InstanceError; ClientGoneError.
        """
        raw = await read_client_body(request, MAX_BODY_BYTES, _Signs().check)
        quiet = NoFullCollection() if len(raw) >= LONG_BYTES else None
        document = fields.json_object(await _read(raw))
        graph, extra = fields.workflow(document), fields.extra_data(document)
        job = Job(
            id=str(uuid.uuid4()),
            owner=owner,
            created=self._doors.cluster.clock.now(),
            metadata=fields.metadata(document),
            priority=fields.priority(document),
            key=fields.idempotency_key(request.headers.get("Idempotency-Key")),
        )
        if job.key is not None:
            job.fingerprint = await _off_loop(raw, lambda: _fingerprint(document, len(raw)))
        while (known := self._keys.claim(job)) is not None:
            await self._keys.over(known)
            if known.accepted:
                await self._resolve(known)
                if known.end is not JobStatus.EXPIRED:
                    return known
                self._keys.forget(known)  # nobody has it, or can tell what it has made
        submitting = asyncio.create_task(self._submit(request, job, raw, graph, extra, find))
        self._begun.add(submitting)
        submitting.add_done_callback(self._done)
        await asyncio.shield(submitting)  # it is finished even if the client leaves
        del quiet
        return job

    async def close(self) -> None:
        """Wait for what was begun."""
        await asyncio.gather(*self._begun, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits gets it too; nobody may be left

    async def _submit(
        self,
        request: web.Request,
        job: Job,
        raw: bytes,
        graph: dict[str, Any],
        extra: dict[str, Any] | None,
        find: references.Find,
    ) -> None:
        try:
            if references.TYPE.encode() in raw:
                await _off_loop(raw, lambda: references.resolve(graph, find))
            if not is_readable(graph):
                message = f"workflow has more than {MAX_NODES} nodes, or {MAX_INPUTS} inputs."
                raise UnprocessableError(message, code="invalid_workflow")
            job.follow(fields.classes(graph))
            self._jobs.add(job)
            await self._post(request, job, graph, extra)
        except InstanceTimeoutError:  # it may have been taken: it must not be run twice
            if job.key is None:
                self._jobs.forget(job)
            job.accepted = job.key is not None
            raise
        except BaseException:
            self._jobs.forget(job)
            raise
        finally:
            self._keys.submitted(job)

    async def _post(
        self,
        request: web.Request,
        job: Job,
        graph: dict[str, Any],
        extra: dict[str, Any] | None,
    ) -> None:
        document: dict[str, Any] = {
            "prompt": graph,
            "prompt_id": job.id,
            "client_id": self.client_id,
        }
        if extra:
            document["extra_data"] = extra
        if (number := self._priorities.number(job.priority or 0)) is not None:
            document["number"] = number
        body = await _join(await written_in_turns(document))
        answer = await self._doors.intake.submit(request, body, document)
        if answer.status != 200:
            raise _refusal(answer)
        told = read_accepted(native.load(answer)).prompt_id
        if told is not None and told != job.id:  # an old server, which chooses ids itself
            self._jobs.rename(job, told)
        job.accepted = True


async def _read(raw: bytes) -> Any:
    try:
        return await in_turns(loads_in_steps(raw))
    except ValueError as error:
        raise RequestError("The body is no JSON.", code="invalid_request") from error


async def _off_loop(raw: bytes, work: Callable[[], T]) -> T:
    """``work`` on what was read of ``raw``; in a thread if that is long."""
    return work() if len(raw) < LONG_BYTES else await asyncio.to_thread(work)


async def _join(pieces: list[bytes]) -> bytes:
    """In a thread if they are many: to join 100 MB takes 40 ms, without the interpreter's lock."""
    many = len(pieces) > LONG_BYTES // VALUE_BYTES
    return await asyncio.to_thread(b"".join, pieces) if many else b"".join(pieces)


def _fingerprint(document: Mapping[str, Any], size: int) -> str:
    """The same for requests that ask for the same; ``size`` bytes are read of it. A key for partner
    nodes may be another one."""
    asked = {key: value for key, value in document.items() if key != "extra_data"}
    if size < LONG_BYTES:
        return sha256(dumps(asked, option=SORT_KEYS)).hexdigest()
    digest = sha256()
    for piece in written(asked, sort_keys=True):
        digest.update(piece)
    return digest.hexdigest()


class _Signs:
    """Counts those of one body."""

    def __init__(self) -> None:
        self._left = MAX_SIGNS
        self._nesting = PromptNesting()

    def check(self, piece: bytes) -> None:
        """Raises UnprocessableError if there are more than MAX_SIGNS with these, or they are nested
        too deeply for ComfyUI."""
        self._nesting.check(piece, UnprocessableError)
        self._left -= count_signs(piece)
        if self._left < 0:
            raise UnprocessableError(
                f"The body has more than {MAX_SIGNS} commas, colons and brackets.",
                details={"limit": MAX_SIGNS},
            )


def _refusal(answer: Answer) -> RequestError | InstanceError:
    """What ComfyUI has against the graph, in the contract's form: node → its fields."""
    told = answer.json()
    if answer.status != 400 or not isinstance(told, dict):
        return InstanceRefusedError(f"ComfyUI answered {answer.status} to the workflow.")
    nodes = told.get("node_errors")
    errors = {
        str(node_id): [_complaint(one) for one in _list(node.get("errors"))]
        for node_id, node in (nodes.items() if isinstance(nodes, dict) else ())
        if isinstance(node, dict)
    }
    details = {"node_errors": errors} if errors else None
    return UnprocessableError(rejection(told), code="invalid_workflow", details=details)


def _complaint(told: Mapping[str, Any]) -> dict[str, Any]:
    extra = told.get("extra_info")
    field = extra.get("input_name") if isinstance(extra, dict) else None
    message = f"{told.get('message', '')}: {told.get('details', '')}".strip(": ")
    return {"field": field, "reason": told.get("type"), "message": without_paths(message)}


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
