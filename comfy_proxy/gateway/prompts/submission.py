"""``POST /prompt``: one instance is chosen, has what the graph names, and then owns the prompt.

The body goes on byte for byte; only a missing ``prompt_id`` is put in, so that the owner can be
known. Validation is ComfyUI's own: its answer is the client's. What was read is carried to its
end even if the client leaves, as ComfyUI itself does.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from aiohttp import web
from loguru import logger

from comfy_proxy.bodies import read_client_body
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.ownership import FileName
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.prompt_answers import read_accepted, rejection
from comfy_proxy.errors import (
    InstanceError,
    InstanceRefusedError,
    InstanceTimeoutError,
    NoHealthyInstanceError,
)
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.charsets import body_charset
from comfy_proxy.gateway.exchange.context import INSTANCE
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.files.staging import (
    cannot_be_found,
    files_in_graph,
    has_inputs,
    stage_inputs,
)
from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt, post, prompt_headers
from comfy_proxy.gateway.prompts.unread import unread
from comfy_proxy.gateway.routes import Match
from comfy_proxy.metrics.records import PromptEvent

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway


async def prompt(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """Submit the client's prompt at one instance; the answer is that instance's.

    Raises NoHealthyInstanceError if none can be reached, InstanceTimeoutError if one may have
    taken the prompt and does not say so, PayloadTooLargeError, RequestError,
    ClientGoneError.
    """
    body = await read_client_body(request, gateway.cluster.settings.max_upload_size)
    document = prompt_body.document(body, body_charset(request))
    if document is None or not isinstance(document.get("prompt"), dict):
        instance, answer = await asyncio.shield(gateway.begin(unread(request, gateway, body)))
    else:
        forwarded = _forwarded(request, gateway, body, document)
        submission = Submission(forwarded, gateway)
        instance, answer = await asyncio.shield(gateway.begin(submission.run()))
    request[INSTANCE] = instance.host
    return native.relayed(answer)


class Submission:
    """One prompt on its way: instances are tried until one has answered.

    ``_failed`` did not take it, ``_silent`` did not answer the check before, at ``_unheard`` the
    client's socket cannot be. ``_refusal`` is the first that said no: the client's answer, unless
    another instance has a file that only its own validation can tell of.
    """

    def __init__(self, prompt: ForwardedPrompt, gateway: Gateway) -> None:
        self._prompt = prompt
        self._gateway = gateway
        self._failed: set[Instance] = set()
        self._silent: set[Instance] = set()
        self._unheard: set[Instance] = set()
        self._refusal: tuple[Instance, Answer] | None = None

    async def run(self) -> tuple[Instance, Answer]:
        gateway = self._gateway
        while True:
            try:
                instance = await self._choose()
            except NoHealthyInstanceError:
                if self._refusal is None:
                    raise
                return self._refusal
            placement = gateway.cluster.scheduler.enter(instance)
            try:
                if not await self._answers(instance):
                    self._pass_over(instance, self._silent)
                    continue
                if not await self._heard(instance):
                    self._pass_over(instance, self._unheard)
                    continue
                answer = await self._submit(instance, placement)
            except InstanceTimeoutError:
                raise  # it may have been taken: to post it elsewhere could run it twice
            except InstanceError as error:
                logger.info("a prompt passed over {}: {}", instance.host, error.message)
                self._pass_over(instance, self._failed)
                continue
            finally:
                placement.release()
            if answer.status == 200:
                self._accepted(instance, answer)
                return instance, answer
            self._refused(instance, answer)
            self._refusal = self._refusal or (instance, answer)
            if answer.status != 400 or not any(map(cannot_be_found, self._files(instance))):
                return self._refusal
            self._pass_over(instance, self._failed)

    def _pass_over(self, instance: Instance, why: set[Instance]) -> None:
        why.add(instance)
        cluster, prompt_id = self._gateway.cluster, self._prompt.prompt_id
        cluster.tell_prompt(PromptEvent.PASSED_OVER, instance, prompt_id)

    async def _choose(self) -> Instance:
        """Least work among those that can run it; if none can, the one that lacks least."""
        gateway, graph = self._gateway, self._prompt.graph
        while usable := await self._usable():
            lacks = await self._lacks(usable)
            if able := await self._able_but_silent(min(lacks.values())):
                usable, lacks = able, await self._lacks(able)
            usable = [one for one in usable if one.healthy]
            if not usable:
                continue
            least = min(lacks[one] for one in usable)
            able = [one for one in usable if lacks[one] == least]
            able = [one for one in able if one not in self._unheard] or able
            lightest = min(one.load for one in able)
            able = [one for one in able if one.load == lightest]
            held = {one: has_inputs(graph, one, gateway, gateway.node_info(one)) for one in able}
            chosen = [one for one in able if held[one] == max(held.values())]
            return gateway.cluster.load_balancer.get_available_instance(
                accepts=lambda candidate, chosen=chosen: candidate in chosen  # type: ignore[misc]
            )
        raise NoHealthyInstanceError("No ComfyUI instance can be reached.", retry_after_s=5)

    async def _lacks(self, instances: list[Instance]) -> dict[Instance, float]:
        lack, graph = self._gateway.lacks, self._prompt.graph
        lacking = await asyncio.gather(*(lack(graph, one) for one in instances))
        return dict(zip(instances, lacking, strict=True))

    async def _able_but_silent(self, least: float) -> list[Instance]:
        """Who missed one check and lacks less than ``least`` nodes or files, if it answers now.

        Nobody if nothing is lacked. Where something is, ComfyUI would refuse the prompt, and one
        missed check of an instance that can run it is no outage.
        """
        silent = [one for one in self._silent - self._failed if one.healthy]
        if least < 1 or not silent:
            return []
        lacks = await self._lacks(silent)
        return await self._found_again([one for one in silent if lacks[one] < least])

    async def _usable(self) -> list[Instance]:
        """Healthy ones; else those that are busy, not dead (trap 8); else who answers again."""
        left = [one for one in self._gateway.cluster.instances if one not in self._failed]
        if usable := [one for one in left if one.healthy and one not in self._silent]:
            return usable
        if busy := [one for one in left if one.healthy and one.alive_just_now]:
            return busy
        return await self._found_again(left)

    async def _found_again(self, left: list[Instance]) -> list[Instance]:
        """Who of ``left`` answers now, or is busy. One missed check is no outage (trap 8).

        Asked until an answer comes or all circuits are open, so a prompt is refused only then.
        """
        check = self._gateway.cluster.health_checker.check
        for _ in range(self._gateway.cluster.settings.health_failure_threshold):
            asked = [one for one in left if one.healthy or one not in self._silent]
            answers = await asyncio.gather(*(check(one) for one in asked))
            found = [one for one, alive in zip(asked, answers, strict=True) if alive]
            if found := found or [one for one in asked if one.healthy and one.alive_just_now]:
                return found
            if not any(one.healthy for one in left):
                break
        return []

    async def _answers(self, instance: Instance) -> bool:
        """The check before each submission; one that failed it is here again as busy or found."""
        if instance in self._silent:
            return True
        return await self._gateway.cluster.health_checker.check(instance)

    async def _heard(self, instance: Instance) -> bool:
        """The client's socket is there, or it has none. Passed over for that only once."""
        client_id, events = self._prompt.client_id, self._gateway.events
        if client_id is None or instance in self._unheard:
            return True
        return await events.ready(client_id, instance, self._gateway)

    async def _submit(self, instance: Instance, placement: Placement) -> Answer:
        await self._stage(instance)
        placement.in_queue = True
        answer = await self._post(instance)
        if answer.status == 400 and self._files(instance):
            # A file that it was believed to have may be gone: somebody tidied its disk.
            await self._stage(instance, fresh=True)
            answer = await self._post(instance)
        return answer

    async def _stage(self, instance: Instance, *, fresh: bool = False) -> None:
        """Raises InstanceRefusedError if it must not run there: names mean other results."""
        graph, gateway = self._prompt.graph, self._gateway
        node_info = gateway.node_info(instance)
        if not await stage_inputs(graph, instance, gateway, node_info, fresh=fresh):
            raise InstanceRefusedError(f"{instance.host} has another result of a name in the graph")

    def _files(self, instance: Instance) -> list[FileName]:
        return files_in_graph(self._prompt.graph, self._gateway.node_info(instance))

    async def _post(self, instance: Instance) -> Answer:
        prompt, gateway = self._prompt, self._gateway
        answering = post(prompt, instance, gateway, prompt.body)
        return await gateway.events.counted(instance, gateway, answering)

    def _refused(self, instance: Instance, answer: Answer) -> None:
        told = answer.json()
        why = rejection(told) if isinstance(told, dict) else f"status {answer.status}"
        with self._prompt.context():
            logger.bind(instance=instance.host).info(
                "prompt {} was refused by {}: {}", self._prompt.prompt_id, instance.host, why
            )

    def _accepted(self, instance: Instance, answer: Answer) -> None:
        prompt, told = self._prompt, read_accepted(native.load(answer))
        if told.prompt_id is not None:
            prompt.renamed = told.prompt_id != prompt.prompt_id
            prompt.prompt_id = told.prompt_id
        if told.number is not None:
            prompt.number = told.number
        self._gateway.prompt_accepted(prompt, instance)


def _forwarded(
    request: web.Request, gateway: Gateway, body: bytes, document: dict[str, Any]
) -> ForwardedPrompt:
    prompt_id, charset = document.get("prompt_id"), body_charset(request)
    if "prompt_id" not in document:
        prompt_id = str(uuid.uuid4())
        body = prompt_body.with_first(body, charset, "prompt_id", prompt_id)
    client_id = document.get("client_id")
    return ForwardedPrompt(
        prompt_id=str(prompt_id),
        path=client_target(request, gateway.cluster.settings),
        body=body,
        charset=charset,
        graph=document["prompt"],
        client_id=client_id if isinstance(client_id, str) else None,
        headers={one: prompt_headers(request, one, gateway) for one in gateway.cluster.instances},
    )
