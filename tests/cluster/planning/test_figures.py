"""cluster/planning/figures.py: what is kept and left out of a choice never changes what it says."""

from __future__ import annotations

import random

import pytest
from manual_clock import ManualClock
from plan_harness import planner_of, teach, work

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.figures import Figures, tie_s
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.slot import Standing
from comfy_proxy.cluster.planning.work import Work

STEPS = ("join", "join", "begin", "end", "ask", "wait", "learn", "forget")
WORKS = (work("a"), work("b"), work("a", "c"), work("d", size="large"), work())


class Life:
    """Whatever happens to a few instances, at random."""

    def __init__(self, clock: ManualClock, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.planner = planner_of(clock, count=6)
        teach(self.planner, *WORKS)
        for instance, line in self.planner.lines.items():
            line.loaded.memory.sets = self.random.choice([1, 2, 3])
            run_s = self.random.uniform(0.5, 5)
            for one in WORKS:
                self.planner.costs.learn(instance, one, run_s, loaded=(), now=0)
        self.count = 0

    async def goes_on(self) -> None:
        instance = self.random.choice(list(self.planner.lines))
        line = self.planner.lines[instance]
        step = self.random.choice(
            ["join", "join", "begin", "end", "ask", "wait", "learn", "forget"]
        )
        if step == "join":
            self.count += 1
            slot = self.planner.slot(self.count, self.random.choice(WORKS), instance)
            self.planner.join(slot, instance)
            line.numbered(self.count, self.count)
        elif step == "begin" and line.waiting:
            line.begin(line.waiting[0].key, self.clock.monotonic())
        elif step == "end" and line.running is not None:
            line.leave(line.running.key)
        elif step == "ask":
            self.planner.asked(self.random.choice(WORKS))
        elif step == "wait":
            await self.clock.advance(self.random.uniform(0, 4))
        elif step == "learn":
            now, seconds = self.clock.monotonic(), self.random.uniform(0.2, 9)
            what = self.random.choice(WORKS)
            self.planner.costs.learn(instance, what, seconds, loaded=(), now=now)
        elif step == "forget":
            self.planner.forget_loaded(instance)


def expected(planner: Planner, what: Work, clock: ManualClock, standing: Standing) -> set[Instance]:
    """Who comes out best when every figure is worked out anew."""
    fresh = Figures(planner.lines, planner.costs, planner._demand, clock.monotonic)
    slot = planner.slot("new", what, next(iter(planner.lines)), standing)
    figures = fresh.of(slot, planner.lines)
    limit_s = min(one.cost_s + tie_s(one.option.run_s) for one in figures)
    return {one.instance for one in figures if one.cost_s <= limit_s}


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
async def test_the_best_are_those_of_all_figures_worked_out_anew(
    clock: ManualClock, seed: int
) -> None:
    """Most are left out before they are worked out, and most of the others are kept from before."""
    life = Life(clock, seed)
    for _ in range(150):
        await life.goes_on()
        what = life.random.choice(WORKS)
        standing = Standing(fixed=life.random.random() < 0.2)
        slot = life.planner.slot("new", what, next(iter(life.planner.lines)), standing)
        best = life.planner.best(slot, life.planner.lines)
        assert {one.instance for one in best} == expected(life.planner, what, clock, standing)
        assert best == sorted(best, key=lambda one: one.cost_s)
