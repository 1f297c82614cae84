"""Clients' prompts at an instance that is away or hangs: given up there, to go on elsewhere.

Which prompt runs there is known from frames. If no client of them listens nobody has heard it; then
the first in the order in which ComfyUI runs them is taken for the one that runs.
"""

from __future__ import annotations

import asyncio
from typing import Final

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import PromptLostError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger, probable_runner
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State

PAID_KEYS = (b'"api_key_comfy_org"', b'"auth_token_comfy_org"')
"""A prompt whose body has one of these uses a service that is paid for. Once it has run at an
instance that hangs it may have been charged, so it is not run a second time: it is lost."""
SEARCHED_BYTES: Final = 2**20
"""Bytes of a body that are looked through before the event loop has its turn (1 MiB)."""


def is_paid(body: bytes) -> bool:
    """Whether the body of a prompt carries a key of a service that is paid for."""
    return any(key in body for key in PAID_KEYS)


async def is_paid_in_turns(body: bytes) -> bool:
    """The same, with a turn of the event loop after every SEARCHED_BYTES: 95 MB take 50 ms."""
    for at in range(0, len(body), SEARCHED_BYTES):
        if at:
            await asyncio.sleep(0)
        if any(body.find(key, at, at + SEARCHED_BYTES + len(key)) >= 0 for key in PAID_KEYS):
            return True
    return False


def require_repeatable(prompt: Prompt) -> None:
    """Raises PromptLostError for one that hung while it ran, and may have cost money."""
    body = b"" if prompt.post is None else prompt.post.body
    if prompt.attempts[-1].hung and is_paid(body):
        raise PromptLostError(
            "Its ComfyUI instance stopped answering while it ran. It uses a paid service and may"
            " have been charged, so it is not run again by itself."
        )


class HungPrompts:
    """Gives up clients' prompts when ``Hangs`` tells that their instance is away or hangs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def away(self, instance: Instance) -> None:
        """For ``Hangs.on_away``: give up what waits there."""
        runner = probable_runner(self._ledger, instance)
        for prompt in self._there(instance):
            if prompt is not runner:
                self._give_up(prompt, instance, ran=False)

    def hung(self, instance: Instance) -> None:
        """For ``Hangs.on_hung``: give up what runs there, and what waits."""
        runner = probable_runner(self._ledger, instance)
        for prompt in self._there(instance):
            self._give_up(prompt, instance, ran=prompt is runner)

    def _there(self, instance: Instance) -> list[Prompt]:
        """The prompts there that can go elsewhere, in the order in which they came: whose body is
        kept, which no client has deleted, which do not move, and which have not ended."""
        return [
            one
            for one in self._ledger.at(instance)
            if one.post is not None
            and not one.deleted
            and one.state in (State.QUEUED, State.RUNNING)
            and not one.attempts[-1].presumed_over
        ]

    def _give_up(self, prompt: Prompt, instance: Instance, *, ran: bool) -> None:
        self._ledger.apply(events.GivenUp(prompt=prompt, ran=ran))
        with prompt.context():
            logger.bind(instance=instance.host).warning(
                "prompt {} is given up at {}, which {}",
                prompt.prompt_id,
                instance.host,
                "hangs while it runs there" if ran else "is away",
            )
