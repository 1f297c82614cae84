"""A prompt's place at one instance: taken before it is submitted, given back at its end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.decision import Decision
from comfy_proxy.errors import InstanceError
from comfy_proxy.observers import tell


class Placement:
    """Counts as one active job of its instance from its making until :meth:`release`.

    ``in_queue``: the prompt was sent there and has not ended. ``running``: ComfyUI said that it
    executes. ``is_leaving``: it is being deleted there. ``move_to`` is a place at another instance,
    offered to a prompt that still waits here (PROTOCOL.md trap 24); ``move`` takes the prompt there
    if that can be, or declines, and is awaited; whoever follows the prompt sets it. ``accepts``
    says to which instances it may be moved; an offer that was declined is not repeated.
    ``of_client``: not one of our jobs'.
    ``give_up`` ends the attempt with an error after which it goes on elsewhere; set by whoever
    follows the prompt, None for a client's own.
    ``key`` is under what the line of its instance knows it: itself, or the prompt that was sent;
    ``on_sent`` hears when that changes. ``decision`` is why it is here, and ``turn`` that of
    its client's share (``fair_share.py``), both None for a client's own prompt.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        accepts: Callable[[Instance], bool] = lambda instance: True,
        on_release: Callable[[Placement], None] = lambda placement: None,
        on_sent: Callable[[Placement], None] = lambda placement: None,
        of_client: bool = False,
    ) -> None:
        self.instance = instance
        self.of_client = of_client
        self.accepts = accepts
        self._on_release = on_release
        self._on_sent = on_sent
        self.key: Hashable = self
        self.decision: Decision | None = None
        self.turn: float | None = None
        self._declined = False
        self.in_queue = False
        self.running = False
        self.is_leaving = False
        self.move_to: Placement | None = None
        self.give_up: Callable[[InstanceError], None] | None = None
        self.move: Callable[[], Coroutine[Any, Any, None]] | None = None
        instance.placements.append(self)

    def __repr__(self) -> str:
        state = "running" if self.running else "queued" if self.in_queue else "preparing"
        return f"<Placement at {self.instance.host} {state}>"

    @property
    def movable(self) -> bool:
        """It waits there, and moving it elsewhere was not tried yet."""
        waits = self.in_queue and not self.running
        return waits and self.move_to is None and not self._declined

    def sent(self, prompt: Hashable) -> None:
        """Its instance is being sent ``prompt``."""
        self.in_queue, self.key = True, prompt
        tell((self._on_sent,), self)

    def offer(self, target: Placement) -> None:
        """Offer a place elsewhere; it is taken only if the prompt can be proven not to run."""
        self.move_to = target

    def decline(self) -> None:
        """The prompt stays for good: give the place back that was offered, if any."""
        self._declined = True
        target, self.move_to = self.move_to, None
        if target is not None:
            target.release()

    def release(self) -> None:
        """Give the place back; a second call does nothing. Never raises: it may be the last thing
        that is done for a prompt that has succeeded."""
        self.in_queue = False
        if self in self.instance.placements:
            self.instance.prompts.remove(self)
            tell((self._on_release,), self)
