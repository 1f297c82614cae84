"""What the tests of planning share: works, places in lines, lines and a planner without servers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf
from typing import Any

from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.costs import Costs
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.loaded import LoadedModels, Memory
from comfy_proxy.cluster.planning.model_files import ModelFiles
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.slot import Slot
from comfy_proxy.cluster.planning.work import Work

LOAD_S = 10.0
"""What loading one model takes in these tests."""
RUN_S = 1.0
"""… and a run."""


def work(
    *models: str,
    kind: str | None = None,
    size: str = "",
    reads: Collection[str] = (),
    writes: Collection[str] = (),
    loaders: Collection[str] = ("1",),
) -> Work:
    """Of the kind that its models make, unless told; ``size`` tells works of a kind apart."""
    kind = kind or "+".join(models) or "nothing"
    return Work(
        kind=kind,
        fingerprint=f"{kind}-{size}",
        models=tuple(sorted(models)),
        loaders=frozenset(loaders if models else ()),
        effort=1.0,
        reads=frozenset(reads),
        writes=frozenset(writes),
    )


def slot(key: Any, what: Work, number: float | None = None, **more: Any) -> Slot:
    """A prompt that runs for RUN_S, unless told."""
    given = {} if number is None else {"number": float(number)}
    return Slot(**{"key": key, "work": what, "run_s": RUN_S, **given, **more})


def line_of(
    *slots: Slot,
    loaded: Iterable[str] = (),
    sets: int = 1,
    patience_s: float | None = None,
    load_s: float = LOAD_S,
) -> Line:
    """A line at an instance that keeps the models of ``sets`` prompts and has those ``loaded``."""
    memory = Memory(lambda model: None)
    memory.sets = sets
    models = LoadedModels(memory)
    for model in loaded:
        models.began((model,))
    line = Line(models, lambda missing: load_s * len(missing), patience_s=patience_s)
    for one in slots:
        joins(line, one)
    return line


def joins(line: Line, slot: Slot) -> None:
    """It was sent there to the end, and has the number that it was given, if any."""
    number, slot.number = slot.number, inf
    line.join(slot)
    line.numbered(slot.key, number)


def keys(line: Line) -> list[Any]:
    """Of those that wait, in their order."""
    return [one.key for one in line.waiting]


def planner_of(clock: ManualClock, count: int = 2, **options: Any) -> Planner:
    """``count`` instances, numbered from 1 on, that keep the models of one prompt each."""
    instances = [
        Instance(id=str(number), url=URL(f"http://gpu{number}:8188"), clock=clock)
        for number in range(1, count + 1)
    ]
    planner = Planner(
        instances, clock=clock, costs=Costs(), files=ModelFiles({}, clock=clock), **options
    )
    for line in planner.lines.values():
        line.loaded.memory.sets = 1
    return planner


def teach(planner: Planner, *works: Work, run_s: float = RUN_S, load_s: float = LOAD_S) -> None:
    """What these works and their loads take at every instance, measured well."""
    now = 0.0
    for instance in planner.lines:
        for one in works:
            for _ in range(3):
                planner.costs.learn(instance, one, run_s, loaded=(), now=now)
                if one.models:
                    total = run_s + load_s * len(one.models)
                    extra = load_s * len(one.models)
                    planner.costs.learn(
                        instance, one, total, loaded=one.models, load_s=extra, now=now
                    )


def has_loaded(planner: Planner, instance: Instance, *models: str) -> None:
    """A prompt with ``models`` has run there last."""
    line = planner.lines[instance]
    line.loaded.began(models)
    line.changed()
