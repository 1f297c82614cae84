"""Changes of the queues that the ledger knows and no frame of an instance tells, told to all
clients as the sum of all queues (``status``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from comfy_proxy.gateway.events.session import EventSession
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.states import Ending, State

_TOLD: Final = (Ending.SUCCESS, Ending.ERROR, Ending.INTERRUPTED)
"""Ends of which the client of the prompt is told by frames; it is told the sum after those."""
_MOVES: Final = (events.Lost, events.GivenUp, events.TakenAway)


class SumCorrections:
    """An observer of the ledger, for all ``sessions``."""

    def __init__(self, sessions: Mapping[str, EventSession]) -> None:
        self._sessions = sessions

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
                for session in self._sessions.values():
                    session.feed.queues.arrivals.sent(instance)
                    if prompt.accepted_at is None and session.client_id == prompt.client_id:
                        session.told.begins_anew(prompt.prompt_id)
            case events.Refused(instance=instance):
                for session in self._sessions.values():
                    session.feed.queues.arrivals.refused(instance)
                    if change.new is State.RECEIVED:  # else it is in transit, and counts so
                        session.feed.sum_corrected()
        if change.old is State.MOVING and change.new not in (State.MOVING, State.SUBMITTING):
            self.status_changed()  # no frame of an instance tells that it moves no longer

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
        for session in self._sessions.values():
            is_old = session.queue_lost(instance, hung=not by_frame)
            hears_later = told and session.client_id == prompt.client_id
            if is_old and change.is_end and not hears_later:
                session.feed.sum_corrected()
