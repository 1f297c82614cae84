"""Which instance a client's new prompt goes to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning import decision
from comfy_proxy.dispatch.dispatcher import Unready
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.prompts.needs import Needs
from comfy_proxy.ledger.prompt import Prompt


class Choice:
    """The choices for one prompt until an instance has answered it.

    ``failed`` did not take it, or must not, ``silent`` did not answer the check before, at
    ``unheard`` the client's socket cannot be.
    """

    def __init__(self, prompt: Prompt, cluster: Cluster, needs: Needs) -> None:
        self._prompt = prompt
        self._cluster = cluster
        self._needs = needs
        self.failed: set[Instance] = set()
        self.silent: set[Instance] = set()
        self.unheard: set[Instance] = set()

    def pass_over(self, instance: Instance, why: Unready) -> None:
        """The dispatcher found that ``instance`` cannot be sent the prompt now."""
        sets = {Unready.SILENT: self.silent, Unready.UNHEARD: self.unheard}
        sets.get(why, self.failed).add(instance)

    async def next(self) -> Instance:
        """Least work among those that can run it; if none can, the one that lacks least.

        Raises NoHealthyInstanceError if no instance is left.
        """
        while usable := await self._usable():
            lacks = await self._needs.lacks_of(self._prompt, usable)
            if able := await self._able_but_silent(min(lacks.values())):
                usable, lacks = able, await self._needs.lacks_of(self._prompt, able)
            usable = [one for one in usable if one.healthy]
            if usable:
                return self._best(usable, lacks)
        raise NoHealthyInstanceError(self._why_none(), retry_after_s=5)

    def _why_none(self) -> str:
        healthy = [one for one in self._cluster.instances if one.healthy]
        if any(one.stands_still for one in healthy):
            return "Every ComfyUI instance stands still (it runs nothing), is drained or away."
        if any(one.drained for one in healthy):
            return "Every ComfyUI instance is drained or away."
        return "No ComfyUI instance can be reached."

    def _best(self, usable: list[Instance], lacks: Mapping[Instance, float]) -> Instance:
        """In this order: lacks least, can be heard, finishes it first as far as that is known, has
        least to do, has most of the files."""
        least = min(lacks[one] for one in usable)
        fit = [one for one in usable if lacks[one] == least]
        able = heard = [one for one in fit if one not in self.unheard] or fit
        able = self._needs.finish_first(self._prompt, able)
        lightest = min(one.load for one in able)
        able = [one for one in able if one.load == lightest]
        chosen = set(self._needs.holding_most(self._prompt, able))
        best = self._cluster.load_balancer.get_available_instance(
            accepts=lambda candidate: candidate in chosen
        )
        self._tell(best, heard, only=self._only(fit, heard, least))
        return best

    def _only(self, fit: list[Instance], heard: list[Instance], least: float) -> str | None:
        """If there was nothing to choose by cost: why."""
        if least >= 1:
            return decision.LACKS_LEAST
        if len(heard) > 1:
            return None
        if len(fit) > 1:
            return decision.ONLY_HEARD
        return decision.ONLY_LEFT if self.failed or self.silent else decision.ONLY

    def _tell(self, best: Instance, heard: list[Instance], *, only: str | None) -> None:
        prompt = self._prompt
        logger.bind(instance=best.host, prompt_id=prompt.prompt_id).opt(lazy=True).debug(
            "prompt {} goes to {}: {}",
            lambda: prompt.prompt_id,
            lambda: best.host,
            lambda: self._needs.why(prompt, best, heard, only=only),
        )

    async def _able_but_silent(self, least: float) -> list[Instance]:
        """Who missed one check and lacks less than ``least`` nodes or files, if it answers now.

        Nobody if nothing is lacked. Where something is, ComfyUI would refuse the prompt, and one
        missed check of an instance that can run it is no outage.
        """
        silent = [one for one in self.silent - self.failed if one.healthy]
        if least < 1 or not silent:
            return []
        lacks = await self._needs.lacks_of(self._prompt, silent)
        return await self._found_again([one for one in silent if lacks[one] < least])

    async def _usable(self) -> list[Instance]:
        """Healthy ones; else those that are busy, not dead (PROTOCOL.md trap 8); else who answers
        again."""
        left = [one for one in self._cluster.instances if one not in self.failed]
        left = [one for one in left if not (one.drained or one.stands_still)]
        left = [one for one in left if not one.draining] or left
        if usable := [one for one in left if one.healthy and one not in self.silent]:
            return usable
        if busy := [one for one in left if one.healthy and one.signs.alive_just_now]:
            return busy
        return await self._found_again(left)

    async def _found_again(self, left: list[Instance]) -> list[Instance]:
        """Who of ``left`` answers now, or is busy. One missed check is no outage.

        Asked until an answer comes or all circuits are open, so a prompt is refused only then.
        """
        check = self._cluster.health_checker.check
        for _ in range(self._cluster.settings.health_failure_threshold):
            asked = [one for one in left if one.healthy or one not in self.silent]
            answers = await asyncio.gather(*(check(one) for one in asked))
            found = [one for one, alive in zip(asked, answers, strict=True) if alive]
            if found := found or [one for one in asked if one.healthy and one.signs.alive_just_now]:
                return found
            if not any(one.healthy for one in left):
                break
        return []
