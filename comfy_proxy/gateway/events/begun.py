"""A coroutine that is begun where it is called, and awaited only if it has to wait for something.

For what nearly always is done at once, such as a write that a connection takes: a task for each
would cost more than the write. (Python 3.12 calls it an eager task.)
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any


class Begun:
    """``doing``, which has yielded ``waits_for``: to be awaited in a task, once."""

    __slots__ = ("_doing", "_waits_for")

    def __init__(self, doing: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._doing = doing
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    yield waits_for
                except BaseException as error:
                    waits_for = self._doing.throw(error)
                else:
                    waits_for = self._doing.send(None)
        except StopIteration as done:
            return done.value


def begin(doing: Coroutine[Any, Any, None]) -> Begun | None:
    """Run it up to where it has to wait; None if it is done. Raises what it raises."""
    try:
        waits_for = doing.send(None)
    except StopIteration:
        return None
    return Begun(doing, waits_for)
