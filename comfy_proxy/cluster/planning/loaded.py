"""Which models an instance has in memory, as far as can be told from what ran there.

ComfyUI tells nobody what it has loaded. Started without options it lets go of whatever the prompt
that runs does not use, however much memory there is: only the models of the last prompt are kept.
With ``--cache-lru`` or ``--cache-ram`` those of several are, and custom nodes keep models of their
own. So one prompt's models are assumed to be kept, or what fits in ``vram_total`` with those
options; both are corrected by what is seen: see :meth:`LoadedModels.seen`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

Models = tuple[str, ...]
Held = tuple[Models, ...]
"""The models of the prompts that ran last, each prompt's once, the latest one last."""

MAX_SETS: Final = 16
"""The models of so many different prompts count as held at most, however much memory there is."""
MAX_KNOWN: Final = 512
"""So many answers of :meth:`Memory.after` are kept; then all are worked out anew."""


class Memory:
    """How much one instance keeps. ``size`` gives the bytes of a model, None if unknown.

    ``total`` are the bytes that it keeps models of several prompts in, its ``vram_total``; None if
    it keeps those of one prompt, or has not told. ``sets`` is how many prompts' models it was seen
    to keep, None before anything has shown that.
    """

    def __init__(self, size: Callable[[str], int | None]) -> None:
        self._size = size
        self.total: int | None = None
        self.sets: int | None = None
        self._known: dict[tuple[object, ...], Held] = {}  # what was worked out, all sizes known

    def __repr__(self) -> str:
        return f"<Memory total={self.total} sets={self.sets}>"

    def after(self, held: Held, models: Models) -> Held:
        """What is held once a prompt with ``models`` has run, when ``held`` was before it.

        The latest prompt's own models always are, however large.
        """
        if not models or (held and held[-1] == models):
            return held
        key = (held, models, self.total, self.sets)
        known = self._known.get(key)
        if known is not None:
            return known
        kept = [one for one in held if not set(one) <= set(models)]
        kept.append(models)
        sizes = {model: self._size(model) for one in kept for model in one}
        while len(kept) > 1 and not self._fits(kept, sizes):
            del kept[0]
        if None not in sizes.values():
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = tuple(kept)
        return tuple(kept)

    def _fits(self, kept: Sequence[Models], sizes: Mapping[str, int | None]) -> bool:
        if len(kept) > (MAX_SETS if self.sets is None else self.sets):
            return False
        if self.sets is not None:
            return True
        used = [sizes[model] for model in {model for one in kept for model in one}]
        if self.total is None or None in used:
            return False
        return sum(filter(None, used)) <= self.total


def missing(held: Held, models: Models) -> Models:
    """Those of ``models`` that are not held."""
    if not models or (held and held[-1] == models):
        return ()
    there = {model for one in held for model in one}
    return tuple(model for model in models if model not in there)


class LoadedModels:
    """What one instance holds now, and the order in which it was used. ``on_change`` is called
    whenever that is otherwise."""

    def __init__(self, memory: Memory, on_change: Callable[[], None] = lambda: None) -> None:
        self.memory = memory
        self.on_change = on_change
        self.held: Held = ()
        self._used: list[Models] = []  # every prompt's models since the process began, latest last

    def __repr__(self) -> str:
        return f"<LoadedModels {self.names()}>"

    def names(self) -> list[str]:
        """The models, those that were used last first."""
        latest_first = (model for one in reversed(self.held) for model in one)
        return list(dict.fromkeys(latest_first))

    def missing(self, models: Models) -> Models:
        """Those of ``models`` that would have to be loaded now."""
        return missing(self.held, models)

    def began(self, models: Models) -> None:
        """A prompt with ``models`` runs there."""
        self.held = self.memory.after(self.held, models)
        if models:
            self._used = [one for one in self._used if one != models][-MAX_SETS:]
            self._used.append(models)
        self.on_change()

    def seen(self, models: Models, *, ago: int | None, loaded: bool) -> None:
        """A prompt with ``models`` had to load them, or had them, against what was assumed.

        ``ago`` is as :meth:`sets_since` gave it before the prompt began. What was found loaded
        after n other prompts' models shows that n + 1 are kept, what was not that n are.
        """
        if ago is None or ago < 1:
            return
        known = self.memory.sets
        if loaded:
            self.memory.sets = min(ago, known or MAX_SETS)
            self.held = self.held[-self.memory.sets :]
        else:
            self.memory.sets = min(max(ago + 1, known or 1), MAX_SETS)

    def sets_since(self, models: Models) -> int | None:
        """How many other prompts' models were used since one used these; None if none has."""
        for ago, one in enumerate(reversed(self._used)):
            if set(models) <= set(one):
                return ago
        return None

    def forget(self) -> None:
        """Its process was restarted, or its memory was freed: nothing is loaded."""
        self.held = ()
        self._used.clear()
        self.on_change()
