"""Prompts that have ended at an instance, and whose entries in its history are still to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.observers import tell

MAX_WANTED = 1_000
"""Entries of one instance that are still to be read; beyond them the one that ended first is not
kept. They pile up only while the instance cannot be asked and yet tells of ends: each of these has
been told to a socket."""
MAX_READS = 3
"""How often an entry is asked for, at so many changes of the queue: ComfyUI writes it a moment
after it has told the end. One that is not there then was deleted, and is not kept."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A prompt that has ended, and how often its entry was asked for."""

    prompt: Prompt
    reads: int = 0


class WantedEntries:
    """``on_changed`` callbacks hear the id of a prompt whose entry is to be read from now on, or is
    no longer to be read, because it was or because that was given up."""

    def __init__(self) -> None:
        self._wanted = ByInstance[dict[str, _Wanted]](lambda instance: {})
        self.on_changed: list[Callable[[str], None]] = []

    def __repr__(self) -> str:
        return f"<WantedEntries {sum(len(wanted) for wanted in self._wanted.values())}>"

    def add(self, prompt: Prompt, instance: Instance) -> None:
        """The entry of ``prompt``, which has ended at ``instance``, is to be read."""
        wanted = self._wanted[instance]
        wanted[prompt.prompt_id] = _Wanted(prompt)
        tell(self.on_changed, prompt.prompt_id)
        if len(wanted) > MAX_WANTED:
            self.drop(next(iter(wanted)), instance)

    def drop(self, prompt_id: str, instance: Instance) -> None:
        """It is no longer to be read there; nothing happens if it was not."""
        if self._wanted[instance].pop(prompt_id, None) is not None:
            tell(self.on_changed, prompt_id)

    def delete(self, prompt_ids: Iterable[str]) -> None:
        """None of these are to be read, wherever that was; unknown ids are ignored."""
        ids = tuple(prompt_ids)
        for instance in tuple(self._wanted):
            for prompt_id in ids:
                self.drop(prompt_id, instance)

    def clear(self) -> None:
        """None is to be read."""
        for wanted in tuple(self._wanted.values()):
            self.delete(tuple(wanted))

    def find(self, prompt_id: str, instance: Instance) -> Prompt | None:
        """The prompt of that id whose entry is to be read at ``instance``."""
        wanted = self._wanted[instance].get(prompt_id)
        return None if wanted is None else wanted.prompt

    def at(self, instance: Instance) -> list[Prompt]:
        """Those whose entries are to be read there, in the order of their ends."""
        return [wanted.prompt for wanted in self._wanted[instance].values()]

    def instance_of(self, prompt_id: str) -> Instance | None:
        """The instance where its entry is still to be read; None if it is not to be read."""
        return next((one for one, wanted in self._wanted.items() if prompt_id in wanted), None)

    def was_absent(self, prompt_id: str, instance: Instance) -> bool:
        """It was asked for, and was not there. False once it is not to be asked for any more."""
        wanted = self._wanted[instance].get(prompt_id)
        if wanted is None or wanted.reads + 1 >= MAX_READS:
            return False
        self._wanted[instance][prompt_id] = _Wanted(wanted.prompt, wanted.reads + 1)
        return True
