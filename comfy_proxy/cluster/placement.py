"""One prompt's place at one instance: taken before it is submitted, given back when it has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_proxy.cluster.instance import Instance


class Placement:
    """Counts as one active job of its instance from its making until :meth:`release`.

    ``in_queue``: the prompt was sent there and has not ended. ``running``: ComfyUI said that it
    executes. ``move_to`` is the place at another instance that the scheduler offers to a prompt
    which still waits here; ``move_requested`` wakes whoever follows it.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.in_queue = False
        self.running = False
        self.move_to: Placement | None = None
        self.move_requested = asyncio.Event()
        instance.placements.add(self)

    def __repr__(self) -> str:
        state = "running" if self.running else "queued" if self.in_queue else "preparing"
        return f"<Placement at {self.instance.host} {state}>"

    @property
    def movable(self) -> bool:
        return not self.running and self.move_to is None

    def release(self) -> None:
        self.instance.placements.discard(self)
        self.in_queue = False
