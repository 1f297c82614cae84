"""All clients that are connected, as one: what the shared sockets tell is told to each of them that
has no socket of its own there, the same frame object to all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.client_messages import answer_flags
from comfy_proxy.gateway.events.frames import Flags, Pass, Scan, Seen, Status, frame_of
from comfy_proxy.gateway.events.scan_frames import ScanFrames
from comfy_proxy.gateway.events.session import EventSession


class Everybody:
    """The ``sessions`` by clientId. ``on_status`` is called with each instance that told how long
    its queue is, after the clients have been told."""

    def __init__(
        self,
        sessions: Mapping[str, EventSession],
        clock: Clock,
        on_status: Callable[[Instance], None],
    ) -> None:
        self._sessions = sessions
        self._on_status = on_status
        self.scans = ScanFrames(lambda text: self.tell(Pass(data=text)), clock)

    def __repr__(self) -> str:
        return f"<Everybody {len(self._sessions)} clients>"

    def tell(self, frame: Pass) -> None:
        """Whatever sockets they have."""
        for session in self._sessions.values():
            session.feed.put(frame)

    def told(self, seen: Seen, instance: Instance) -> None:
        """What the shared socket to ``instance`` has told."""
        match seen:
            case None:
                return
            case Status():
                for session in self._sessions.values():
                    if not session.hears_itself(instance):
                        session.feed.status_changed()
                self._on_status(instance)
            case Flags():
                for session in self._sessions.values():
                    if session.feed.flags_due:
                        answer_flags(session)
            case Scan(kind=kind, data=data, text=text):
                self.scans.take(kind, data, text, instance)
            case _:
                frame = frame_of(seen)
                for session in self._sessions.values():
                    session.broadcast(frame, instance)

    def greeted(self, instance: Instance) -> None:
        """A new shared socket to ``instance`` has told how many prompts wait or run there."""
        self._correct(instance)
        self._on_status(instance)

    def lost(self, instance: Instance) -> None:
        """The shared socket to ``instance`` hears nothing, or is a new one."""
        self.scans.lost(instance)
        self._correct(instance)

    def _correct(self, instance: Instance) -> None:
        for session in self._sessions.values():
            if not session.hears_itself(instance):
                session.feed.sum_corrected()
