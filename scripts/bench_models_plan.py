"""What a client does that plans by hand: it knows what everything costs, and no future.

Pure: time is an argument, and nothing is sent from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations, product

from bench_models_work import Costs

IN_FLIGHT = 2
"""Prompts at an instance at once: one runs, and the next one waits there already."""
HOMELESS = 4.0
"""Loads that it is worth to keep a place for a model that will be asked for again: so many prompts
or so wait for it when it has to come back."""
EVICTION = 4.0
"""Loads that one in the place of another model costs beside its own time: what goes is soon wanted
again. Without it places change hands when a few prompts more of one model happen to come."""
ALL_ORDERS = 3
"""Models of which every order is tried; of more, one."""


@dataclass(kw_only=True, eq=False)
class Place:
    """An instance as the planner sees it: what it will have loaded, and when it is free."""

    speed: float
    fit: int
    loaded: list[str] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    free_at: float = 0.0

    @property
    def room(self) -> int:
        return IN_FLIGHT - len(self.costs)

    def cost(self, model: str, costs: Costs, loaded: Sequence[str]) -> float:
        load_s = 0.0 if model in loaded else costs.load_s
        return (load_s + costs.run_s) / self.speed

    def send(self, model: str, costs: Costs, now: float) -> None:
        """A prompt is on its way there, behind those that are."""
        cost = self.cost(model, costs, self.loaded)
        self.costs.append(cost)
        self.free_at = max(self.free_at, now) + cost
        self.loaded = used(self.loaded, model, self.fit)

    def ended(self, now: float) -> None:
        """The first of its prompts is done."""
        del self.costs[0]
        self.free_at = now + sum(self.costs)

    def empty(self) -> None:
        """Nothing is loaded any more."""
        self.loaded = []


def used(loaded: Sequence[str], model: str, fit: int) -> list[str]:
    """The loaded models, the most recently used last, after one more use."""
    return [*(one for one in loaded if one != model), model][-fit:]


@dataclass(frozen=True)
class Plan:
    """How good it is (less is better), and the models that each place gets, in order."""

    price: float
    queues: Sequence[Sequence[str]]


class Planner:
    """Which of the waiting prompts goes where next: the best of all divisions of models.

    A division gives each model the places that may run it. It is followed to its end: each prompt
    goes to the place among those that ends it first, prompts of a model together. Its price is the
    sum of all waits, and the last end once more; a model that is left without a place in anybody's
    memory costs as much as HOMELESS loads, one that has to go as EVICTION.
    """

    def __init__(self, places: Sequence[Place], models: Sequence[str], costs: Costs) -> None:
        self.places = places
        self._models = models
        self._costs = costs

    def next(self, waiting: Mapping[str, int], now: float) -> list[tuple[Place, str]]:
        """What to send now; `waiting` counts by model, the one that waits longest first."""
        wanted = {model: number for model, number in waiting.items() if number}
        sent: list[tuple[Place, str]] = []
        while wanted and any(place.room > 0 for place in self.places):
            plan = min(self._plans(wanted, now), key=lambda one: one.price)
            before = len(sent)
            for place, queue in zip(self.places, plan.queues, strict=True):
                first = sorted(queue, key=lambda model: model not in place.loaded)
                for model in first[: max(place.room, 0)]:
                    place.send(model, self._costs, now)
                    sent.append((place, model))
                    wanted[model] -= 1
            wanted = {model: number for model, number in wanted.items() if number}
            if len(sent) == before:
                break  # it is better to wait for a place that is taken now
        return sent

    def _plans(self, waiting: Mapping[str, int], now: float) -> Iterator[Plan]:
        numbers = range(len(self.places))
        some = [one for size in numbers for one in combinations(numbers, size + 1)]
        for order in self._orders(waiting):
            for division in product(some, repeat=len(order)):
                yield self._follow(zip(order, division, strict=True), waiting, now)

    def _orders(self, waiting: Mapping[str, int]) -> Iterator[Sequence[str]]:
        if len(waiting) <= ALL_ORDERS:
            yield from permutations(waiting)
        else:
            loaded = {model for place in self.places for model in place.loaded}
            yield sorted(waiting, key=lambda model: model not in loaded)

    def _follow(
        self,
        division: Iterator[tuple[str, Sequence[int]]],
        waiting: Mapping[str, int],
        now: float,
    ) -> Plan:
        free = [max(now, place.free_at) for place in self.places]
        loaded = [place.loaded for place in self.places]
        queues: list[list[str]] = [[] for _ in self.places]
        price = 0.0
        for model, allowed in division:
            for _ in range(waiting[model]):
                ends = {
                    one: free[one] + self.places[one].cost(model, self._costs, loaded[one])
                    for one in allowed
                }
                best = min(ends, key=lambda one: ends[one])
                free[best] = ends[best]
                price += self._eviction(self.places[best], loaded[best], model)
                loaded[best] = used(loaded[best], model, self.places[best].fit)
                queues[best].append(model)
                price += ends[best] - now
        return Plan(price + max(free) - now + self._homeless(loaded), queues)

    def _eviction(self, place: Place, loaded: Sequence[str], model: str) -> float:
        if model in loaded or len(loaded) < place.fit:
            return 0.0
        return EVICTION * self._costs.load_s / place.speed

    def _homeless(self, loaded: Sequence[Sequence[str]]) -> float:
        missing = len(set(self._models) - {model for one in loaded for model in one})
        room = sum(place.fit - len(one) for place, one in zip(self.places, loaded, strict=True))
        return HOMELESS * self._costs.load_s * max(0, missing - room)
