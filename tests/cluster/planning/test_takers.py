"""cluster/planning/takers.py: many pairs are decided at once as each of them alone would be."""

from __future__ import annotations

import random

import pytest
from manual_clock import ManualClock
from plan_harness import has_loaded, planner_of, slot, work

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.takers import Takers

WORKS = [work("a"), work("b"), work("a", "b"), work(kind="plain"), work("a", size="large")]


def learns(planner: Planner, chance: random.Random) -> None:
    """Something of some works at some instances."""
    for instance in planner.lines:
        for one in WORKS:
            if chance.random() < 0.8:
                run_s, load_s = chance.choice([0.5, 1, 8]), chance.choice([0.0, 2, 20])
                planner.costs.learn(instance, one, run_s, loaded=(), now=0)
                if one.models:
                    planner.costs.learn(
                        instance, one, run_s + load_s, loaded=one.models, load_s=load_s, now=0
                    )


def fills(planner: Planner, clock: ManualClock, chance: random.Random) -> dict[Instance, int]:
    """Prompts wait and run; how many where, least first."""
    loads = {}
    for instance, line in planner.lines.items():
        has_loaded(planner, instance, chance.choice("ab"))
        loads[instance] = chance.choice([0, 0, 1, 1, 2, 3, 5])
        for number in range(loads[instance]):
            key = instance, number
            planner.join(planner.slot(key, chance.choice(WORKS), instance), instance)
            instance.placements.append(slot(key, WORKS[0]))  # type: ignore[arg-type]
            if number == 0 and chance.random() < 0.8:
                line.begin(key, clock.monotonic())
    return dict(sorted(loads.items(), key=lambda pair: pair[1]))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
async def test_it_is_what_each_pair_alone_would_be(clock: ManualClock, seed: int) -> None:
    """Whatever is known, loaded and waits; and where nothing gains that is told beforehand."""
    chance = random.Random(seed)
    planner = planner_of(clock, 8)
    learns(planner, chance)
    loads = fills(planner, clock, chance)
    await clock.advance(chance.choice([0, 0.3, 30]))
    low = {one: load for one, load in loads.items() if load <= 1}
    takers = Takers(planner, low)
    for busy in loads:
        for one in [*planner.lines[busy].waiting, slot("unknown", WORKS[0])]:
            waiting = takers.waiting(one.key, busy)
            expected = {idle for idle in low if planner.gains(one.key, busy, idle)}
            assert {idle for idle in low if takers.gains(waiting, idle)} == expected
            for limit in (0, 1):
                if any(low[idle] <= limit for idle in expected):
                    assert takers.any_for(waiting, limit)


async def test_what_gains_nowhere_costs_no_look_at_pairs(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody has what the others lack, and loading it takes longer than waiting."""
    planner = planner_of(clock, 100)
    heavy = work("a")
    for instance in planner.lines:
        planner.costs.learn(instance, heavy, 1.0, loaded=(), now=0)
        planner.costs.learn(instance, heavy, 61.0, loaded=heavy.models, load_s=60.0, now=0)
    instances = list(planner.lines)
    for busy in instances[:50]:
        has_loaded(planner, busy, "a")
        for number in range(3):
            planner.join(planner.slot((busy, number), heavy, busy), busy)
    asked = []
    monkeypatch.setattr(planner, "gains", lambda *pair: asked.append(pair))
    takers = Takers(planner, dict.fromkeys(instances[50:], 0))
    for busy in instances[:50]:
        waiting = takers.waiting((busy, 2), busy)
        assert not takers.any_for(waiting, 0)
        assert not any(takers.gains(waiting, idle) for idle in instances[50:])
    assert asked == []
