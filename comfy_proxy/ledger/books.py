"""Where the ledger finds its prompts: by id, by instance, in transit. Only the ledger writes it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.ledger.places import Places
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.transit import Transit

MAX_OWNERS = 50_000
"""So many ids of prompts that have ended, or did not come through us, are remembered with their
instance. Beyond it the one that was noted longest ago goes; whoever asks for it then has to ask all
instances. Prompts that live are never among these."""


class Books:
    """The indices over the records.

    ``submitting``: those that an instance is being sent and has not answered for.
    ``generations`` counts how many processes each instance is known to have had before.
    ``doubts`` counts how often any instance was found away.
    ``suspects``: who ran at an instance when it was first found away, as long as it is not known
    what that instance has lost.
    """

    def __init__(self, max_owners: int = MAX_OWNERS) -> None:
        self.places = Places()
        self.transit = Transit()
        self.submitting: dict[Prompt, None] = {}
        self.generations = ByInstance[int](lambda instance: 0)
        self.doubts = 0
        self.suspects = ByInstance[Prompt | None]()
        self._live: dict[str, list[Prompt]] = {}
        self._max_owners = max_owners
        self._owners: OrderedDict[str, Instance] = OrderedDict()

    def live(self) -> Iterator[Prompt]:
        """Every prompt that has not ended, whether or not it was accepted."""
        for prompts in tuple(self._live.values()):
            yield from prompts

    def lists(self, prompt: Prompt) -> bool:
        """Whether it was received and has not ended."""
        return prompt in self._live.get(prompt.prompt_id, ())

    def find(self, prompt_id: str) -> Prompt | None:
        """The accepted prompt of that id that has not ended."""
        for one in self._live.get(prompt_id, ()):  # asked for each frame: no generator
            if one.accepted_at is not None:
                return one
        return None

    def at(self, instance: Instance, prompt_id: str) -> Prompt | None:
        """The prompt of that id that is there, or is being sent there."""
        prompts = self._live.get(prompt_id, ())
        there = (one for one in prompts if one.at(instance))
        coming = (one for one in prompts if one.target is instance)
        return next(there, None) or next(coming, None)

    def owner(self, prompt_id: str) -> Instance | None:
        """Which instance has that prompt, or had it when it ended; None if nobody knows."""
        prompt = self.find(prompt_id)
        if prompt is not None:
            return prompt.instance
        return self._owners.get(prompt_id)

    def add(self, prompt: Prompt) -> None:
        self._live.setdefault(prompt.prompt_id, []).append(prompt)

    def rename(self, prompt: Prompt, prompt_id: str) -> None:
        self._unlist(prompt)
        prompt.prompt_id = prompt_id
        self.add(prompt)

    def remove(self, prompt: Prompt) -> None:
        """It has ended."""
        self._unlist(prompt)
        self.transit.arrived(prompt)
        self.submitting.pop(prompt, None)
        last = prompt.instance
        if last is not None:
            self.leave(prompt, last)
            self.note_owner(prompt.prompt_id, last)

    def leave(self, prompt: Prompt, instance: Instance) -> None:
        """It waits and runs at ``instance`` no longer."""
        self.places.left(prompt, instance)
        self.settle_suspect(instance)

    def settle_suspect(self, instance: Instance) -> None:
        """Once nobody is doubtful there any more, nobody is suspected."""
        if instance not in self.suspects:
            return
        if all(one.attempts[-1].doubt is None for one in self.places[instance]):
            del self.suspects[instance]

    def forget(self, instance: Instance) -> None:
        """It has left: what had ended there is nobody's any more."""
        self._owners = OrderedDict(one for one in self._owners.items() if one[1] is not instance)

    def note_owner(self, prompt_id: str, instance: Instance) -> None:
        if instance.left:
            return
        self._owners[prompt_id] = instance
        self._owners.move_to_end(prompt_id)
        if len(self._owners) > self._max_owners:
            self._owners.popitem(last=False)

    def _unlist(self, prompt: Prompt) -> None:
        prompts = self._live[prompt.prompt_id]
        prompts.remove(prompt)
        if not prompts:
            del self._live[prompt.prompt_id]
