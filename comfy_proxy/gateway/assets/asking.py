"""Ask the instances about assets on behalf of a client.

An instance has assets if it is of 2026 and was started with them enabled. One without says 404, or
503 with the code ``SERVICE_DISABLED``: it is left out of what is put together. One that is away may
have some, and an answer without them would be wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceTimeoutError, InstanceUnreachableError, UnavailableError
from comfy_proxy.gateway.exchange.fanout import Answer, ask, nobody_answers
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.files.file_holders import RETRY_AFTER_S

_OF_THE_CLIENTS_QUESTION = (
    hdrs.CONTENT_LENGTH,
    hdrs.CONTENT_TYPE,
    hdrs.CONTENT_ENCODING,
    hdrs.RANGE,
    hdrs.IF_RANGE,
    hdrs.IF_MATCH,
    hdrs.IF_NONE_MATCH,
    hdrs.IF_MODIFIED_SINCE,
    hdrs.IF_UNMODIFIED_SINCE,
)
"""Headers that concern the body, or the one answer, which are others in the question asked here."""


NOT_FOUND = "ASSET_NOT_FOUND"
"""The code of a 404 that an instance with assets gives."""


class AssetAsking:
    """Asks the instances of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def one(
        self, request: web.Request, instance: Instance, method: str, path: str, **options: Any
    ) -> Answer:
        """One question to ``instance`` with the client's own headers; ``options`` as of ``ask``.

        ``headers`` among the options replace those of the client. Raises UnavailableError if the
        instance cannot be reached: the same request may be sent again later.
        """
        headers = request_headers(request, instance, self.cluster.settings)
        for name in _OF_THE_CLIENTS_QUESTION:
            headers.popall(name, None)
        headers.update(options.pop("headers", {}))
        if not await self.cluster.healthy([instance]):
            raise away(instance)
        try:
            return await ask(instance, self.cluster, method, path, headers=headers, **options)
        except (InstanceUnreachableError, InstanceTimeoutError) as error:
            raise away(instance) from error

    async def everybody(
        self, request: web.Request, method: str, path: str, **options: Any
    ) -> dict[Instance, Answer]:
        """What each instance says; those without assets answer too.

        Raises UnavailableError if one of them is away.
        """
        asked = self.cluster.instances
        answers = await asyncio.gather(
            *(self.one(request, instance, method, path, **options) for instance in asked)
        )
        return dict(zip(asked, answers, strict=True))

    async def reachable(
        self, request: web.Request, method: str, path: str, **options: Any
    ) -> tuple[dict[Instance, Answer], list[Instance]]:
        """What those say that can be reached, and who cannot.

        Raises NoHealthyInstanceError if nobody can.
        """

        async def question(instance: Instance) -> Answer | None:
            try:
                return await self.one(request, instance, method, path, **options)
            except UnavailableError:
                return None

        asked = self.cluster.instances
        told = dict(zip(asked, await asyncio.gather(*map(question, asked)), strict=True))
        answers = {one: answer for one, answer in told.items() if answer is not None}
        if not answers:
            raise nobody_answers()
        return answers, [one for one in asked if one not in answers]

    async def refused(self, request: web.Request) -> Answer:
        """ComfyUI's own answer to what it does not understand: as it came to all that can be
        reached, and of their answers that of an instance with assets, if there is one.

        Raises NoHealthyInstanceError.
        """
        target = client_target(request, self.cluster.settings)
        answers, _ = await self.reachable(request, "GET", target)
        return best_refusal(answers)


def best_refusal(answers: Mapping[Instance, Answer]) -> Answer:
    """That of an instance with assets, if there is one; else the first."""
    told = list(answers.values())
    sure = [answer for answer in told if not lacks_assets(answer)]
    likely = [answer for answer in told if error_code(answer) == NOT_FOUND]
    return (sure or likely or told)[0]


def with_assets(answers: Mapping[Instance, Answer]) -> dict[Instance, Answer]:
    """Those of instances that have assets."""
    return {one: answer for one, answer in answers.items() if not lacks_assets(answer)}


def lacks_assets(answer: Answer) -> bool:
    """Whether ``answer`` to a question that any instance with assets understands is of one without:
    an old one has no such route, and one that was started without them says so."""
    if answer.status in (404, 405):
        return True
    return answer.status == 503 and error_code(answer) == "SERVICE_DISABLED"


def error_code(answer: Answer) -> str | None:
    """``error.code`` of ComfyUI's asset answers; None where there is none."""
    data = answer.json()
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def away(instance: Instance) -> UnavailableError:
    """The error for a client whose question needs an instance that cannot be reached."""
    return UnavailableError(
        f"ComfyUI instance {instance.id}, whose assets are needed for this, cannot be reached.",
        retry_after_s=RETRY_AFTER_S,
    )
