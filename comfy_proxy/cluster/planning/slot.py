"""One prompt in the line of an instance, and what a line would do with one more."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import inf

from comfy_proxy.cluster.planning.loaded import Held
from comfy_proxy.cluster.planning.work import Work


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What entitles a prompt to its place: ``client`` is whose prompts of one kind keep their
    order, ``fixed`` that its client chose its place in the queue, ``overtaken_s`` for how many
    seconds it was overtaken before it came there."""

    client: str | None = None
    fixed: bool = False
    overtaken_s: float = 0.0


@dataclass(kw_only=True, slots=True, eq=False)
class Slot:
    """One prompt in a line. ``key`` is whose it is: the prompt itself, or its place.

    ``number`` is what its instance gave it, infinite before that is known; ``fixed`` if its client
    chose it, or its place among others. ``client`` is whose prompts of one kind keep their order.
    ``overtaken_s`` is what those run that came later and were put ahead of it. ``load_s`` and
    ``end_s`` are set by the line: the seconds of loading that it will cause, and those until it
    ends, from the moment when the instance is free.
    """

    key: Hashable
    work: Work
    run_s: float
    number: float = inf
    fixed: bool = False
    client: str | None = None
    overtaken_s: float = 0.0
    load_s: float = 0.0
    end_s: float = 0.0
    held: Held = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """What one instance would do with one more prompt, once it is free: ``behind_s`` seconds for
    those ahead of it, then ``load_s`` to load its models, then ``run_s``. ``before`` is the one
    that it would overtake first, None if it goes to the end."""

    behind_s: float
    load_s: float
    run_s: float
    before: Slot | None = None

    @property
    def end_s(self) -> float:
        return self.behind_s + self.load_s + self.run_s
