"""``POST /prompt``: the request read into a prompt, and the answer of the instance that took it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from aiohttp import web

from comfy_proxy.bodies import ClientBody
from comfy_proxy.client_identity import client_of
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.errors import RequestError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.charsets import body_charset
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.gateway.prompts.posted import PostedPrompts
from comfy_proxy.gateway.prompts.posting import SUBMIT_TIMEOUT_S, as_json, post_headers
from comfy_proxy.gateway.prompts.prompt_admission import PromptAdmission
from comfy_proxy.gateway.prompts.stopping_values import require_harmless
from comfy_proxy.gateway.prompts.submission import Submissions
from comfy_proxy.gateway.prompts.unread import unread
from comfy_proxy.gateway.routes import Match
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, PostHeaders, Prompt

T = TypeVar("T")

PROMPT_PATH: Final = "/prompt"


class PromptIntake:
    """The policy ``scheduled``, and the same for those inside of the proxy (:meth:`submit`)."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        submissions: Submissions,
        admission: PromptAdmission,
    ) -> None:
        self._cluster = cluster
        self._admission = admission
        self._posted = PostedPrompts()
        self._ledger = ledger
        self._submissions = submissions
        self._begun: set[asyncio.Task[Any]] = set()
        self.inside: str | None = None
        """The clientId of those inside of the proxy; None if there are none."""

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """Submit the client's prompt at one instance; the answer is that instance's.

        Raises NoHealthyInstanceError if none can be reached, InstanceTimeoutError if one may have
        taken the prompt and does not say so, QueueFullError, PayloadTooLargeError, RequestError,
        ClientGoneError.
        """
        settings = self._cluster.settings
        self._admission.require(client_of(request, settings), request.content_length or 0)
        content = ClientBody(request.content, settings.max_upload_size)
        async with self._posted.taken_in(content, body_charset(request)) as (body, document):
            return await self._submit(request, body, document)

    async def submit(
        self, request: web.Request, body: bytes, document: Mapping[str, Any]
    ) -> Answer:
        """Submit ``document`` for ``request``, which came to another route than ``/prompt``: a
        whole body of ``POST /prompt`` with a ``prompt_id``, of which ``body`` is the text.

        Returns the answer of the instance that was asked; that has taken the prompt if it is a 200.
        Raises as :meth:`answer`.
        """
        cluster = self._cluster
        require_harmless(document)
        self._admission.require(client_of(request, cluster.settings), len(body))
        headers = post_headers(request, cluster.instances, cluster.settings)
        post = _post(document, body, PROMPT_PATH, as_json(headers))
        return await self._submitted(request, str(document["prompt_id"]), post)

    async def _submit(
        self, request: web.Request, body: bytes, document: dict[str, Any] | None
    ) -> web.StreamResponse:
        if document is None or not isinstance(document.get("prompt"), dict):
            asking = unread(request, body, self._cluster, self._ledger)
            instance, answer = await asyncio.shield(self._begin(asking))
            request[CONTEXT].instance = instance.host
            return native.relayed(answer)
        require_harmless(document)
        cluster = self._cluster
        prompt_id, charset = document.get("prompt_id"), body_charset(request)
        if "prompt_id" not in document:  # a large one has got one in posted.py
            prompt_id = str(uuid.uuid4())
            body = prompt_body.with_first(body, charset, "prompt_id", prompt_id)
        self._require_free(str(prompt_id))
        path = client_target(request, cluster.settings)
        headers = post_headers(request, cluster.instances, cluster.settings)
        post = _post(document, body, path, headers, charset)
        return native.relayed(await self._submitted(request, str(prompt_id), post))

    async def _submitted(self, request: web.Request, prompt_id: str, post: ClientPost) -> Answer:
        support = self._cluster.graph_support
        if (flaw := support.fatal_flaw(post.graph)) is not None:
            raise RequestError(flaw, code="invalid_prompt", details={"field": "prompt"})
        work = support.work(post.graph)
        prompt = Prompt(prompt_id=prompt_id, post=post, work=work)
        submitting = self._begin(self._submissions.submit(prompt, post))
        instance, answer = await asyncio.shield(submitting)
        request[CONTEXT].instance = instance.host
        return answer

    def _require_free(self, prompt_id: str) -> None:
        """Raises RequestError for the id of a job that lives, which is seen in ``/queue``: a newer
        prompt would take its place on record. ComfyUI's clients may use their own ids again."""
        known = self._ledger.find(prompt_id)
        if known is None:
            return
        if known.job is not None or (self.inside and known.client_id == self.inside):
            raise RequestError(
                "prompt_id is that of a job which has not ended.",
                code="prompt_id_in_use",
                details={"field": "prompt_id"},
            )

    async def close(self) -> None:
        """Wait for what was begun, for ``SUBMIT_TIMEOUT_S`` at most."""
        if self._begun:
            await asyncio.wait(tuple(self._begun), timeout=SUBMIT_TIMEOUT_S)

    def _begin(self, submission: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start what is to be finished even if its client leaves: it has an owner, and is known."""
        task = asyncio.create_task(submission)
        self._begun.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits gets it too; nobody may be left


def _post(
    document: Mapping[str, Any],
    body: bytes,
    path: str,
    headers: PostHeaders,
    charset: str = prompt_body.UTF_8,
) -> ClientPost:
    return ClientPost(
        path=path,
        client_id=prompt_body.client_id(document),
        headers=headers,
        body=body,
        charset=charset,
        placed=bool(document.get("front")) or "number" in document,
        graph=document["prompt"],
    )
