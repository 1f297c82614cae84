"""What waits for all clients together: bounded, at the expense of whoever holds it up most."""

from __future__ import annotations

from typing import Final, Protocol

from comfy_proxy.clock import Clock, SystemClock

MAX_SUM_BYTES: Final = 64 * 2**20
"""Bytes that may wait in all outboxes together. Beyond it the client that has held most for longest
loses its previews, then all that waits and its socket. One that alone has anything waiting is left
to the bound of each. Frames on their way in come on top, one for each socket at an instance: ten
clients that do not read 12 MB frames take up to 400 MB of the process."""


class Holder(Protocol):
    """An outbox, as far as the sum is concerned."""

    @property
    def held(self) -> int:
        """Bytes that wait, with the frame that is being written."""

    @property
    def moved_at(self) -> float:
        """Monotonic seconds: when a frame was written last, or came while none waited."""

    def give_way(self) -> None:
        """Hold less: previews go first, then everything that waits with the client's socket, then
        what is being written to it. Called until nothing is held it leaves nothing."""


class OutboxSum:
    """One for all clients of an application."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.bytes = 0
        self._holders: set[Holder] = set()

    def __repr__(self) -> str:
        return f"<OutboxSum {len(self._holders)} clients, {self.bytes} bytes>"

    def changed(self, holder: Holder, size: int) -> None:
        """``holder`` has ``size`` more bytes, or less, than before."""
        self.bytes += size
        if holder.held:
            self._holders.add(holder)
        else:
            self._holders.discard(holder)

    def make_room(self) -> None:
        """Have those give way that hold most and read least, until the sum is within its bound."""
        while self.bytes > MAX_SUM_BYTES and len(self._holders) > 1:
            now = self.clock.monotonic()
            max(
                self._holders, key=lambda one: (one.held * (now - one.moved_at), one.held)
            ).give_way()
