"""Changes of the queues that the ledger knows and no frame of an instance tells, told to all
clients as the sum of all queues (``status``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.session import EventSession
from comfy_proxy.gateway.events.shared_sockets import SharedSockets
from comfy_proxy.gateway.events.sums import ToldQueue
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import Ending, State

_TOLD: Final = (Ending.SUCCESS, Ending.ERROR, Ending.INTERRUPTED)
"""Ends of which the client of the prompt is told by frames; it is told the sum after those."""
_MOVES: Final = (events.Lost, events.GivenUp, events.TakenAway)


class SumCorrections:
    """An observer of the ledger, for all ``sessions`` and the ``shared`` sockets."""

    def __init__(self, sessions: Mapping[str, EventSession], shared: SharedSockets) -> None:
        self._sessions = sessions
        self._shared = shared

    def status_changed(self) -> None:
        """The sum has changed, and no frame tells it: a prompt moves."""
        for session in self._sessions.values():
            session.feed.status_changed()

    def observe(self, change: Change) -> None:
        """An observer of the ledger: prompts that the sums must count from now on, or no longer."""
        self._left(change)
        if change.prompt.job is not None:
            return
        match change.event:
            case events.Sent(instance=instance, prompt=prompt):
                self._sent(prompt, instance)
            case events.Refused(instance=instance):
                self._shared.queues.refused(instance)
                for queue in self._own_queues(instance):
                    queue.refused()
                if change.new is State.RECEIVED:  # else it is in transit, and counts so
                    for session in self._sessions.values():
                        session.feed.sum_corrected()
        if change.old is State.MOVING and change.new not in (State.MOVING, State.SUBMITTING):
            self.status_changed()  # no frame of an instance tells that it moves no longer

    def _sent(self, prompt: Prompt, instance: Instance) -> None:
        self._shared.queues.sent(instance)
        for queue in self._own_queues(instance):
            queue.sent()
        if (client := self._sessions.get(prompt.client_id or "")) is not None:
            # It may have come since it was looked for, and nobody has waited for its socket.
            client.listen_at(instance)
            if prompt.accepted_at is None:
                client.told.begins_anew(prompt.prompt_id)

    def _own_queues(self, instance: Instance) -> list[ToldQueue]:
        """As the clients' own sockets there tell it."""
        found = (
            one.own.queues.get(instance) for one in self._sessions.values() if one.own is not None
        )
        return [queue for queue in found if queue is not None]

    def _left(self, change: Change) -> None:
        """A prompt has left an instance, which the instance cannot tell while it is away.

        The client that is to be told how the prompt ended hears of the sum after that end
        (``MissedEnds.learnt``).
        """
        prompt, instance = change.prompt, change.prompt.instance
        if instance is None or not (change.is_end or isinstance(change.event, _MOVES)):
            return
        by_frame = isinstance(change.event, events.EndTold)
        told = prompt.end is not None and prompt.end.ending in _TOLD
        shared_is_old = self._shared.queue_lost(instance, hung=not by_frame)
        for session in self._sessions.values():
            is_old = shared_is_old
            if session.own is not None and session.hears_itself(instance):
                is_old = session.own.queue_lost(instance, hung=not by_frame)
            hears_later = told and session.client_id == prompt.client_id
            if is_old and change.is_end and not hears_later:
                session.feed.sum_corrected()
