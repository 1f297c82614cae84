"""Prompts that go on at their instance though a newer one was accepted under their id.

Old versions of ComfyUI take an id twice, and run both. The ledger follows the newer one alone
(``Ending.REPLACED``). What the instance tells of the older one still goes to the client that posted
it, which may be another one than the newer one's; but it puts nothing on record: it would be taken
for the newer one's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.states import Ending, State

MAX_REPLACED: Final = 1_000
"""Prompts that are remembered until the last frame about them. Beyond them the one that was
replaced first is forgotten: its client may hear no more of it."""
_Key = tuple[str, str, Instance]


class ReplacedPrompts:
    """An observer of the ledger. ``client_id`` is ``""`` for a prompt that names no client."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, int] = OrderedDict()

    def __repr__(self) -> str:
        return f"<ReplacedPrompts {len(self._known)}>"

    def observe(self, change: Change) -> None:
        """Of several with one id, client and instance each is counted."""
        prompt, end = change.prompt, change.prompt.end
        if end is None or end.ending is not Ending.REPLACED or not change.is_end:
            return
        if prompt.attempt is None or change.old not in (State.QUEUED, State.RUNNING):
            return  # it is at no instance: nobody runs it
        key = prompt.prompt_id, prompt.client_id or "", prompt.attempt.instance
        self._known[key] = self._known.get(key, 0) + 1
        if len(self._known) > MAX_REPLACED:
            self._known.popitem(last=False)

    def has(self, prompt_id: str, client_id: str, instance: Instance) -> bool:
        """Whether what ``instance`` tells that client of that id is of an older prompt. ComfyUI
        runs them in their order, so of one client's two it is until the first has ended."""
        return bool(self._known) and (prompt_id, client_id, instance) in self._known

    def over(self, prompt_id: str, client_id: str, instance: Instance) -> None:
        """The last frame of one of them has come."""
        key = prompt_id, client_id, instance
        left = self._known.pop(key) - 1
        if left:
            self._known[key] = left

    def removed(self, instance: Instance) -> None:
        """``instance`` has left: nothing more is to come from there."""
        for key in [key for key in self._known if key[2] is instance]:
            del self._known[key]
