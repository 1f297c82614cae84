"""ComfyUI's HTTP API for one instance: its JSON in, values and this package's errors out.

With ``comfyui_frames.py``, the ``prompt_….py`` beside it and ``planning/model_lists.py`` the only
place that knows ComfyUI's formats. Traps are in ``PROTOCOL.md`` beside this file. Every request is
one ``instance.attempt``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import PurePath
from typing import Any, BinaryIO

import aiohttp

from comfy_proxy.clock import Clock
from comfy_proxy.cluster import answer_bodies, self_check
from comfy_proxy.cluster.connection_manager import ConnectionManager
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.output_file import OutputFile, ResultFileLostError
from comfy_proxy.cluster.prompt_answers import Accepted, read_accepted, rejection
from comfy_proxy.cluster.prompt_lists import (
    HISTORY,
    QUEUE,
    QueueView,
    history_path,
    read_history,
    read_queue,
)
from comfy_proxy.cluster.submit_once import GATEWAY_STATUSES
from comfy_proxy.cluster.system_stats import keeps_several, read_vram_total
from comfy_proxy.cluster.translation import translated
from comfy_proxy.errors import (
    InstanceRefusedError,
    InstanceUnreachableError,
    InvalidAnswerError,
    PromptRejectedError,
)
from comfy_proxy.full_collections import NoFullCollection
from comfy_proxy.json_scanner import JsonScanner, Shape, Value
from comfy_proxy.json_steps import feed
from comfy_proxy.lenient_json import dumps_exact, loads_exact
from comfy_proxy.observers import tell
from comfy_proxy.stored_bytes import StoredBytes
from comfy_proxy.tracing import trace_headers

MAX_RESULT_BYTES = 4096 * 2**20
"""Bytes of one file that a job has made; with a longer one it fails."""
UPLOAD_SUBFOLDER = "comfy_proxy"
_HEADERS = {"Accept-Encoding": "identity"}
"""The session hands out raw bytes; ComfyUI's ``--enable-compress-response-body`` needs a no."""


class ComfyUIClient:
    """One instance's API. ``timeout_s`` bounds an answer; uploads and downloads get more."""

    def __init__(
        self, instance: Instance, connections: ConnectionManager, *, clock: Clock, timeout_s: float
    ) -> None:
        self.instance = instance
        self._connections = connections
        self._clock = clock
        self._timeout_s = timeout_s
        self._silence = partial(clock.timeout, timeout_s)

    async def check(self, timeout_s: float) -> None:
        """``GET /system_stats``: returns if ComfyUI answers within ``timeout_s``; the instance has
        learnt how much memory it has.

        Not an attempt: the health checker itself tells the breaker. Raises InstanceError.
        """
        session = self._connections.fresh_session(self.instance)
        with translated(self.instance.host):
            async with (
                self._clock.timeout(timeout_s),
                session.get(
                    self.instance.url / "system_stats",
                    allow_redirects=False,
                    headers={**_HEADERS, self_check.HEADER: self._connections.mark},
                ) as response,
            ):
                self_check.require_other(response.status, self.instance.host)
                _require_ok(response, self.instance.host)
                stats = _loads(await answer_bodies.read(response, answer_bodies.MAX_JSON_BYTES))
        if not isinstance(stats, dict) or "system" not in stats:
            raise InvalidAnswerError(f"{self.instance.host} does not answer like ComfyUI.")
        self.instance.vram_total = read_vram_total(stats)
        self.instance.keeps_several = keeps_several(stats)

    async def queue(self, *, fresh: bool = False) -> QueueView:
        """``GET /queue``; ``fresh`` as of :meth:`ConnectionManager.request`."""
        queue = read_queue(await self.scanned("queue", QUEUE, fresh=fresh))
        if queue is None:
            raise InvalidAnswerError(f"{self.instance.host}: /queue has no queue.")
        return queue.view()

    async def history(self, prompt_id: str, *, fresh: bool = False) -> dict[str, Any] | None:
        """``GET /history/{id}``: the entry, or None while it is unfinished or unknown.

        ``{"prompt": [number, None, None], "outputs": …, "status": …}``: the rest is not read.
        """
        path = history_path(prompt_id)
        entries = read_history(await self.scanned(path, HISTORY, fresh=fresh)) or ()
        found = [one for one in entries if one.prompt_id == prompt_id and one.value.is_object]
        if not found:
            return None
        entry = await found[-1].data_in_turns()
        tell(self.instance.on_history, {prompt_id: entry})
        return entry

    async def object_info(self) -> bytes:
        """``GET /object_info`` as it came; stops the instance's event loop for 67 ms and more."""
        async with self._request("GET", "object_info") as response:
            _require_ok(response, self.instance.host)
            return await answer_bodies.read(response, answer_bodies.MAX_OBJECT_INFO_BYTES)

    async def upload_file(self, file: bytes | BinaryIO, *, name: str, size: int) -> str:
        """``POST /upload/image``, byte for byte; the name that ``LoadImage`` is to use.

        Without ``overwrite``: the same bytes under the same name are kept as they are, so that
        a file which another prompt just reads is never truncated under it.
        """
        form = aiohttp.FormData()
        form.add_field("image", file, filename=name, content_type="application/octet-stream")
        form.add_field("type", "input")
        form.add_field("subfolder", UPLOAD_SUBFOLDER)
        answer = await self.json("POST", "upload/image", data=form, extra_s=size / 2**20)
        try:
            folder = answer["subfolder"]
            return f"{folder}/{answer['name']}" if folder else str(answer["name"])
        except (KeyError, TypeError) as error:
            raise InvalidAnswerError(f"{self.instance.host}: the upload has no name.") from error

    async def submit(
        self,
        graph: Mapping[str, Any],
        *,
        prompt_id: str,
        client_id: str,
        number: float | None = None,
    ) -> Accepted:
        """``POST /prompt``; the id under which it runs (old servers choose their own), its number
        if it is told, and what of it does not run. ``number``: its place in the queue, None for
        the end.

        Raises PromptRejectedError with ComfyUI's own words on a 400.
        """
        post = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id}
        body = dumps_exact(post if number is None else {**post, "number": number})
        async with self._request(
            "POST", "prompt", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            if response.status != 400:
                _require_ok(response, self.instance.host)
            payload = _loads(await answer_bodies.read(response, answer_bodies.MAX_JSON_BYTES))
            if response.status == 400 and isinstance(payload, dict):
                raise PromptRejectedError(rejection(payload), details={"type": "rejected"})
            told = read_accepted(payload)
            if told.prompt_id is None:
                raise InvalidAnswerError(f"{self.instance.host}: the prompt got no id.")
            return told

    async def delete(self, prompt_id: str) -> bool:
        """Withdraw a waiting prompt: True if it is proven that it never ran (trap 24)."""
        await self.post("queue", {"delete": [prompt_id]})
        return prompt_id not in await self.queue() and await self.history(prompt_id) is None

    async def interrupt(self, prompt_id: str) -> None:
        """``POST /interrupt`` of a prompt that is known to run (old servers ignore the id)."""
        await self.post("interrupt", {"prompt_id": prompt_id})

    async def free(self) -> None:
        """``POST /free``: all models are unloaded and the results of nodes forgotten, at once or
        after the prompt that runs, which is not disturbed."""
        await self.post("free", {"unload_models": True, "free_memory": True})

    async def view(self, file: OutputFile, into: StoredBytes) -> None:
        """``GET /view``: writes the bytes of a file. Raises ResultFileLostError if there are none,
        ResultError for a name that cannot be asked for, UnavailableError if there is no room.

        The body may take any time, but no piece of it longer than COMFYUI_TIMEOUT.
        """
        async with self._request("GET", "view", whole=False, params=file.query()) as response:
            if response.status == 404:
                name = PurePath(file.filename).name
                message = f"{self.instance.host} does not have the result {name!r}."
                raise ResultFileLostError(message)
            _require_ok(response, self.instance.host)
            async for piece in answer_bodies.pieces(response, MAX_RESULT_BYTES, self._silence):
                await into.write(piece)

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of any answer; ``path`` is encoded. Raises InstanceError, also for no 200."""
        async with self._request(method, path, **options) as response:
            _require_ok(response, self.instance.host)
            return _loads(await answer_bodies.read(response, answer_bodies.MAX_JSON_BYTES))

    async def body(self, path: str) -> bytes:
        """A JSON object or array as it came, of which the first byte alone is looked at."""
        async with self._request("GET", path) as response:
            _require_ok(response, self.instance.host)
            body = await answer_bodies.read(response, answer_bodies.MAX_JSON_BYTES)
            if not body[:1024].lstrip().startswith((b"{", b"[")):
                raise InvalidAnswerError(f"{self.instance.host} answered what is no JSON.")
            return body

    async def post(self, path: str, payload: Mapping[str, Any]) -> None:
        """``payload`` to a route that answers nothing but that it is done."""
        async with self._request("POST", path, json=payload) as response:
            _require_ok(response, self.instance.host)

    async def scanned(self, path: str, shape: Shape, **options: Any) -> Value:
        """What ``shape`` names in the answer to a GET. Raises InstanceError.

        The body may take any time, but no piece of it longer than COMFYUI_TIMEOUT.
        """
        scanner = JsonScanner(shape)
        async with self._request("GET", path, whole=False, **options) as response:
            _require_ok(response, self.instance.host)
            limit, quiet, came = answer_bodies.MAX_SCANNED_BYTES, None, 0
            async for piece in answer_bodies.pieces(response, limit, self._silence):
                came += len(piece)
                quiet = quiet or NoFullCollection.for_bytes(came)
                await feed(scanner, piece)
                if scanner.failed:
                    break
            root = scanner.result()
            if root is None or root.members is None:
                raise InvalidAnswerError(f"{self.instance.host} answered what is no JSON.")
            return root

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        extra_s: float = 0,
        whole: bool = True,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One exchange; ``path`` is encoded. ``whole``: the timeout is for the body too."""
        options["headers"] = {**_HEADERS, **trace_headers(), **(headers or {})}
        url = self.instance.url.joinpath(path.lstrip("/"), encoded=True)
        with (
            self.instance.attempt(path.lstrip("/").partition("/")[0]),
            translated(self.instance.host),
        ):
            async with AsyncExitStack() as exchange:
                async with AsyncExitStack() as head:
                    timeout = self._clock.timeout(self._timeout_s + extra_s)
                    await (exchange if whole else head).enter_async_context(timeout)
                    response = await exchange.enter_async_context(
                        await self._connections.request(
                            self.instance, method, url, allow_redirects=False, **options
                        )
                    )
                yield response


def _require_ok(response: aiohttp.ClientResponse, host: str) -> None:
    if response.status == 200:
        return
    message = f"{host} answered {response.status} to {response.method} {response.url.path}."
    if response.status in GATEWAY_STATUSES:
        raise InstanceUnreachableError(message)
    raise InstanceRefusedError(message)


def _loads(body: bytes) -> Any:
    try:
        return loads_exact(body)
    except ValueError as error:
        raise InvalidAnswerError("An instance answered something that is not JSON.") from error
