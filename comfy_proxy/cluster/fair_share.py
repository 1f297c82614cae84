"""Turns by which clients get places: each in turn, however many jobs each has waiting.

Start-time fair queueing: a job's turn is one more than that of its client's job before it, and at
least the turn that is served now; the lowest turn gets the next place. So the first job of a client
with few jobs comes beside the first waiting job of a client with many, and a client that is alone
has its jobs served in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class FairShare:
    """Gives turns. ``in_service`` tells the turns of the jobs that have a place now."""

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
        """That job has ended. A turn that was never served does not count: later jobs of its client
        stand behind those that are left."""
        own = self._turns[client]
        own.remove(turn)
        if not own:
            del self._turns[client]

    def served(self, turn: float) -> None:
        """The job of that turn has got a place."""
        self._given = max(self._given, turn)

    def _now(self) -> float:
        """The turn of the next job of a client that has none here: the lowest that is served now,
        because that client has had none of those places. But at most as many turns before the
        latest as are served now, so that a job that runs for an hour does not hold it back.
        """
        turns = list(self._in_service())
        return max(min(turns), self._given - len(turns)) if turns else self._given
