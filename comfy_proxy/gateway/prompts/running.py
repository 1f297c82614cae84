"""Which of the clients' prompts each instance runs now, as far as is known. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt


class RunningPrompts:
    """At most one prompt for each instance, which is how many ComfyUI runs at once.

    Events tell it (:meth:`began`). Of prompts whose events nobody hears it is the head of their
    instance's queue: the first to arrive, and when that has left the one with the lowest number.
    """

    def __init__(self) -> None:
        self._running: dict[Instance, ForwardedPrompt] = {}

    def of(self, prompts: Sequence[ForwardedPrompt], instance: Instance) -> ForwardedPrompt | None:
        """Which of ``prompts``, those that have not ended at ``instance``, runs there.

        None if there are none, and while one of our own jobs runs there: then all of them wait.
        """
        if not prompts or any(placement.running for placement in instance.placements):
            return None
        running = self._running.get(instance)
        if running is not None and running in prompts and not running.over:
            return running
        return _head(prompts)

    def arrived(self, prompt: ForwardedPrompt, instance: Instance) -> None:
        """``instance`` has taken it: it runs unless something else does."""
        self._running.setdefault(instance, prompt)

    def began(self, prompt: ForwardedPrompt, instance: Instance) -> None:
        """An event has told so."""
        self._running[instance] = prompt

    def left(
        self, prompt: ForwardedPrompt, instance: Instance, others: Iterable[ForwardedPrompt]
    ) -> None:
        """It has ended or gone elsewhere; ``others`` are still there."""
        if self._running.get(instance) is not prompt:
            return
        head = _head([one for one in others if one is not prompt])
        if head is None:
            del self._running[instance]
        else:
            self._running[instance] = head


def _head(prompts: Iterable[ForwardedPrompt]) -> ForwardedPrompt | None:
    """The first in the order of ComfyUI's queue."""
    waiting = (prompt for prompt in prompts if not prompt.over)
    return min(waiting, key=lambda prompt: prompt.number, default=None)
