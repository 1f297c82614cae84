"""The work of bench-models: which prompts arrive when, and what they cost on which instances."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

MODEL_BYTES = 10**9
Json = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds, on an instance of speed 1: to load a model, and to run a prompt."""

    load_s: float
    run_s: float


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One prompt: of which model, and how many seconds after the first one it arrives."""

    model: str
    at: float


Arrivals = Callable[[random.Random, float], Sequence[Arrival]]
"""From a source of chance and the prompts a second that all instances do together."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Instances by speed, `fit` models in the memory of each, and the rows that are measured.

    `jobs`: the work goes to the job API, one template a model, instead of to `/prompt`.
    """

    models: Sequence[str]
    rows: Mapping[str, Arrivals]
    speeds: Sequence[float] = (1.0, 1.0)
    fit: int = 1
    jobs: bool = False


def half_load(**prompts: int) -> Arrivals:
    """So many prompts of each model in random order, Poisson, at half of what can be done."""

    def arrivals(chance: random.Random, capacity: float) -> Sequence[Arrival]:
        at, found = 0.0, []
        for model in shuffled(chance, prompts):
            found.append(Arrival(model=model, at=at))
            at += chance.expovariate(capacity / 2)
        return found

    return arrivals


def burst(**prompts: int) -> Arrivals:
    """So many prompts of each model, shuffled, all at once."""

    def arrivals(chance: random.Random, _capacity: float) -> Sequence[Arrival]:
        return [Arrival(model=model, at=0.0) for model in shuffled(chance, prompts)]

    return arrivals


def shuffled(chance: random.Random, prompts: Mapping[str, int]) -> list[str]:
    models = [model for model, number in prompts.items() for _ in range(number)]
    chance.shuffle(models)
    return models


SCENARIOS = {
    "two-models": Scenario(models="ab", rows={"two-models": half_load(a=30, b=30)}),
    "four-burst": Scenario(models="abcd", rows={"four-burst": burst(a=12, b=12, c=12, d=12)}),
    "long-burst": Scenario(models="abcd", rows={"long-burst": burst(a=30, b=30, c=30, d=30)}),
    "skew": Scenario(models="ab", rows={"skew": half_load(a=48, b=12)}),
    "own-jobs": Scenario(
        models="ab",
        rows={"own-jobs": half_load(a=20, b=20), "own-jobs burst": burst(a=20, b=20)},
        jobs=True,
    ),
    "unequal": Scenario(
        models="ab",
        rows={"unequal": half_load(a=30, b=30), "unequal burst": burst(a=30, b=30)},
        speeds=(1.0, 1.5, 3.0),
    ),
    "two-fit": Scenario(models="abc", rows={"two-fit": half_load(a=14, b=13, c=13)}, fit=2),
}

_seeds = count(1)


def file_of(model: str) -> str:
    return f"{model}.safetensors"


def graph(model: str, seconds: float) -> dict[str, Json]:
    """A prompt of its own: no other one has its seed, so that no cache serves it."""
    sampler = {"model": ["1", 0], "steps": 4, "width": 512, "height": 512, "batch_size": 1}
    return {
        "1": _node("SimulatedModelLoader", ckpt_name=file_of(model)),
        "2": _node("SimulatedSampler", **sampler, seed=next(_seeds), seconds=seconds),
        "3": _node("PreviewImage", images=["2", 0]),
    }


def job_graph(model: str, seconds: float, picture: str) -> dict[str, Json]:
    """As :func:`graph`, with a picture that comes in: the result takes its transparency."""
    nodes = graph(model, seconds)
    nodes["4"] = _node("LoadImage", image=picture)
    nodes["5"] = _node("JoinImageWithAlpha", image=["2", 0], alpha=["4", 1])
    nodes["3"] = _node("SaveImageWebsocket", images=["5", 0])
    return nodes


def template(model: str, seconds: float) -> Json:
    """The same as a workflow of the job API; its one parameter is the seed."""
    nodes = job_graph(model, seconds, "picture.png")
    del nodes["3"]
    bind = {"4.image": "$picture", "2.seed": "$seed"}
    variant = {"name": "only", "graph": nodes, "bind": bind, "output": ["5", 0]}
    seed = {"type": "integer", "minimum": 0, "maximum": 2**31, "default": 0}
    return {"title": model, "parameters": {"seed": seed}, "scale": 1, "variants": [variant]}


def next_seed() -> int:
    return next(_seeds)


def _node(class_type: str, **inputs: object) -> Json:
    return {"class_type": class_type, "inputs": inputs}
