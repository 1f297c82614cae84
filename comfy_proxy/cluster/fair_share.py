"""Turns by which clients get places: one after the other, however many jobs each has waiting.

Start-time fair queueing: a job's turn is one behind the last of its client, but never before what
is served now. So the first of a client with few comes next to the first that waits of one with
many, and a client that is alone is served in the order in which its jobs came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class FairShare:
    """Gives turns. ``in_service`` are the turns of those that have a place now."""

    def __init__(self, in_service: Callable[[], Iterable[float]]) -> None:
        self._in_service = in_service
        self._given = 0.0  # the latest turn that has got a place
        self._turns: dict[str, list[float]] = {}  # of each client's unfinished jobs, in order

    def __repr__(self) -> str:
        return f"<FairShare {len(self._turns)} clients, turn {self._given:g}>"

    def begin(self, client: str) -> float:
        """The turn of one more job of ``client``; to be given back by :meth:`end`."""
        own = self._turns.setdefault(client, [])
        turn = max(self._now(), own[-1] + 1 if own else 0.0)
        own.append(turn)
        return turn

    def end(self, client: str, turn: float) -> None:
        """That job has ended: what others of its client waited for in vain counts nothing."""
        own = self._turns[client]
        own.remove(turn)
        if not own:
            del self._turns[client]

    def served(self, turn: float) -> None:
        """It has got a place."""
        self._given = max(self._given, turn)

    def _now(self) -> float:
        """The turn of a client that has nothing here: the first of those that are served, for it
        has not had the places which they have; one that runs for an hour does not count for ever.
        """
        turns = list(self._in_service())
        return max(min(turns), self._given - len(turns)) if turns else self._given
