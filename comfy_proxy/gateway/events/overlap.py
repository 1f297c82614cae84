"""When a client gets a socket of its own at an instance: nothing is told twice, and nothing lost.

The instance sends a broadcast to that socket and to the shared one, in no certain order, and what
it sent shortly before to the shared one alone. So both are listened to for :data:`OVERLAP_S`, and
what one has told already is not told again when the other tells it. Two broadcasts that came within
that time may be told in the other order.
"""

from __future__ import annotations

OVERLAP_S = 1.0
"""Seconds after the first frame of a client's own socket in which broadcasts of the shared socket
are told as well. Beyond it what comes there late is lost for that client: its own socket tells."""
MAX_FRAMES = 256
"""Frames that are remembered. Beyond it the oldest is forgotten, and may be told twice."""


class Overlap:
    """Of one client at one instance, from the handshake of its own socket on."""

    def __init__(self) -> None:
        self._ahead: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Overlap {len(self._ahead)} frames>"

    def is_told(self, data: str | bytes, *, by_own: bool) -> bool:
        """Whether the other socket has told that frame already; if not, this one does. Of binary
        frames none is told by the shared socket."""
        if isinstance(data, bytes):
            return False
        before = self._ahead.pop(data, 0)  # how often the own socket was ahead with it
        after = before + (1 if by_own else -1)
        if after:
            self._ahead[data] = after
        if len(self._ahead) > MAX_FRAMES:
            del self._ahead[next(iter(self._ahead))]
        return abs(after) < abs(before)
