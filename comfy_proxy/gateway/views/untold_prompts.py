"""Prompts that are to be ended at an instance which did not answer the order to end them.

It may be cut off, hang, or only be busy, and may have carried the order out. The prompts end here
at once, and there as soon as it answers: they are given up there (``dispatch/zombies.py``), and a
prompt that is deleted goes on nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Container

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.ledger.events import Deleted, GivenUp
from comfy_proxy.ledger.ledger import Ledger, probable_runner
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State


class UntoldPrompts:
    """Ends prompts of ``ledger`` at instances that cannot be told to."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def among(self, ids: Collection[str], answered: Container[Instance]) -> list[Prompt]:
        """Those of these prompts that wait or run at an instance which is none of ``answered``."""
        found = filter(None, map(self._ledger.find, ids))
        return [
            one
            for one in found
            if (last := one.attempt) is not None
            and one.at(last.instance)
            and one.state in (State.QUEUED, State.RUNNING)
            and last.instance not in answered
        ]

    def running(self, prompt: Prompt) -> bool:
        """Whether it is the one that runs where it is, as far as is known."""
        there = None if prompt.attempt is None else prompt.attempt.instance
        return there is not None and probable_runner(self._ledger, there) is prompt

    def end(self, prompts: Collection[Prompt]) -> None:
        """End these of :meth:`among`, also what runs. A job's own prompt is only noted as deleted:
        its job knows what becomes of it."""
        runs = {prompt: self.running(prompt) for prompt in prompts}
        ids = [prompt.prompt_id for prompt in prompts]
        self._ledger.apply(Deleted(prompt_ids=ids, running=True))
        for prompt in prompts:
            if prompt.job is None and not prompt.attempts[-1].presumed_over:
                self._ledger.apply(GivenUp(prompt=prompt, ran=runs[prompt]))
