"""Which prompts are at which instance, and which of them runs there. Only the ledger writes it."""

from __future__ import annotations

from collections.abc import Iterable

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.ledger.prompt import Prompt, is_open
from comfy_proxy.ledger.states import State


class Places:
    """By instance, in the order in which the prompts came.

    At most one of them runs, because ComfyUI runs one prompt at a time: the one that an event named
    last. Where no client listens no event tells; then it is the first that came, and when that has
    left, the one with the lowest number, which is ComfyUI's own order.
    """

    def __init__(self) -> None:
        self._at = ByInstance[dict[Prompt, None]](lambda instance: {})
        self._running = ByInstance[Prompt]()

    def __getitem__(self, instance: Instance) -> list[Prompt]:
        """Those that wait or run there."""
        return list(self._at[instance])

    def running(self, instance: Instance) -> Prompt | None:
        """Which of them runs, as far as is known."""
        running = self._running.get(instance)
        if running is None or not has_ended_there(running):
            return running
        return _first(self._at[instance])

    def running_for_client(self, instance: Instance) -> Prompt | None:
        """The prompt of a client that runs there, as far as is known; None while one of our jobs'
        does: of those events always tell."""
        running = self.running(instance)
        if running is None or running.job is None:
            return running
        if running.state is State.RUNNING:
            return None
        return _first(prompt for prompt in self._at[instance] if prompt.job is None)

    def arrived(self, prompt: Prompt, instance: Instance) -> None:
        self._at[instance][prompt] = None
        self._running.setdefault(instance, prompt)

    def began(self, prompt: Prompt, instance: Instance) -> Prompt | None:
        """An event has told so; gives who ran there until now, as far as was known."""
        before = self._running.get(instance)
        self._running[instance] = prompt
        return before

    def left(self, prompt: Prompt, instance: Instance) -> None:
        self._at[instance].pop(prompt, None)
        if self._running.get(instance) is prompt:
            following = _first(self._at[instance])
            if following is None:
                self._running.pop(instance, None)
            else:
                self._running[instance] = following


def has_ended_there(prompt: Prompt) -> bool:
    """It is over at the instance that took it last, though that may not have been booked yet."""
    last = prompt.attempt
    return last is None or not is_open(last) or last.presumed_over or last.end is not None


def _first(prompts: Iterable[Prompt]) -> Prompt | None:
    waiting = [one for one in prompts if not has_ended_there(one)]
    return min(waiting, key=lambda one: one.number, default=None)
