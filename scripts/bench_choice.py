"""What the choice of an instance costs in CPU time, without checks and without any instance.

`--waiting` prompts of `--kinds` kinds (each with a model of its own, one that fits) of `--clients`
clients wait at 2, 20 and 300 instances, one runs at each; what everything costs is learned. Fixed
seeds.

choice: a client's prompt comes, and the instances that finish it first are found. Then it joins
one of them (join: the line, and its number there), one that runs somewhere ends, and the next one
begins there: so whatever was worked out before is as out of date as it would be. With a material
change of the costs every few choices as well.

door: as many jobs wait for a place, every instance is full, and a place is given back: who gets it
is found (opened), and those that wait are woken and wait on (woken).

rebalance: at every second instance one prompt runs and two wait, and the others are idle, but would
have to load longer than that takes. A load changes, and everything is looked through for a prompt
that had better go elsewhere, and none had: of clients' prompts (clients) and of jobs' (jobs). Then
so many wait that all had, and the first one is looked for (found).

`--profile` prints where the time goes, for the largest number of instances. Goal: p99 of a choice
at most 1 ms at 300.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy import Settings
from comfy_proxy.clock import SystemClock
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.late_runs import LateRuns
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.joining import number_of
from comfy_proxy.cluster.planning.model_lists import ModelFile
from comfy_proxy.cluster.planning.slot import Standing
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.gateway.prompts.uneven import Uneven
from comfy_proxy.ledger.prompt import Attempt, ClientPost, PostHeaders, Prompt
from comfy_proxy.ledger.states import State
from comfy_proxy.settings import parse_instance

GOAL_MS = 1.0
RUN_S, LOAD_S = 2.0, 6.0
WARM_UP = 50


@dataclass
class Times:
    """Milliseconds of one step, by what it was."""

    of: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = time.thread_time()
        yield
        self.of.setdefault(name, []).append((time.thread_time() - begun) * 1000)

    def tell(self, title: str) -> None:
        for name, all_ms in self.of.items():
            ordered = sorted(all_ms[min(WARM_UP, len(all_ms) // 10) :])
            p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
            print(f"  {title:<32} {name:<8} p50 {p50:8.3f} ms   p99 {p99:8.3f} ms", flush=True)


def works(count: int) -> list[Work]:
    """Of different kinds, each with a model of its own."""
    return [
        Work(
            kind=f"kind {number}",
            fingerprint=f"kind {number}-1",
            models=(f"model {number}.safetensors",),
            loaders=frozenset("1"),
            effort=1.0,
            reads=frozenset(),
            writes=frozenset({f"out {number}"}),
        )
        for number in range(count)
    ]


class StoppableClock(SystemClock):
    """The machine's own time, or one that stands still once ``stopped_at`` is set."""

    stopped_at: float | None = None

    def monotonic(self) -> float:
        return super().monotonic() if self.stopped_at is None else self.stopped_at


class Bench:
    """A cluster that nobody answers for; its instances are as if they had passed their checks."""

    def __init__(self, instances: int, options: argparse.Namespace) -> None:
        urls = tuple(parse_instance(f"http://gpu{number}:8188") for number in range(instances))
        self.clock = StoppableClock()
        self.cluster = Cluster(Settings(instances=urls), clock=self.clock)
        self.planner = self.cluster.planner
        self.works = works(options.kinds)
        self.random = random.Random(options.seed)
        self.clients = [f"client {number}" for number in range(options.clients)]
        self.prompts = 0
        self._learn()

    def _learn(self) -> None:
        """Costs, and that two of the models fit."""
        sizes = {one.models[0]: ModelFile(folder="checkpoints", size=4 << 30) for one in self.works}
        for instance in self.cluster.instances:
            self.cluster.model_files._keep(instance, sizes)
            self.planner.lines[instance].loaded.memory.total = 12 << 30
            for what in self.works:
                for run in range(3):
                    run_s = RUN_S * (1 + run / 100)
                    self.planner.costs.learn(instance, what, run_s, loaded=(), now=0)
                    self.planner.costs.learn(
                        instance, what, LOAD_S + run_s, loaded=what.models, load_s=LOAD_S, now=0
                    )

    def standing(self) -> Standing:
        return Standing(client=self.random.choice(self.clients))

    def joins(self, instance: Instance, what: Work, standing: Standing) -> None:
        """A prompt waits there from now on, and the instance has given it a number."""
        self.prompts += 1
        slot = self.planner.slot(self.prompts, what, instance, standing)
        self.planner.join(slot, instance)
        number = number_of(self.planner.lines[instance], slot.key)
        self.planner.lines[instance].numbered(slot.key, self.prompts if number is None else number)
        instance.prompts.external_jobs += 1

    def one_ends(self, instance: Instance) -> None:
        """What runs there ends, and the next one begins."""
        line = self.planner.lines[instance]
        if line.running is not None:
            line.leave(line.running.key)
            instance.prompts.external_jobs -= 1
        if line.waiting:
            line.begin(line.waiting[0].key, self.cluster.clock.monotonic())


def choices(bench: Bench, waiting: int, count: int, *, costs_change_every: int = 0) -> Times:
    """Choose for one prompt after the other while ``waiting`` others wait."""
    instances = list(bench.cluster.instances)
    for number in range(waiting):
        what = bench.random.choice(bench.works)
        bench.joins(instances[number % len(instances)], what, bench.standing())
    for instance in instances:
        bench.one_ends(instance)
    times = Times()
    for number in range(count):
        what, standing = bench.random.choice(bench.works), bench.standing()
        if costs_change_every and number % costs_change_every == 0:
            change_costs(bench, number)
        with times.timed("choice"):
            bench.planner.asked(what)
            slot = bench.planner.slot("new", what, instances[0], standing)
            best = bench.planner.best(slot, instances)
        with times.timed("join"):
            bench.joins(best[0].instance, what, standing)
        busy = [one for one in instances if bench.planner.lines[one].running is not None]
        bench.one_ends(bench.random.choice(busy))
    return times


def change_costs(bench: Bench, number: int) -> None:
    """An instance is measured anew until its median has moved by a lot."""
    instance = bench.random.choice(bench.cluster.instances)
    costs, version = bench.planner.costs, bench.planner.costs.version
    while costs.version == version:
        seconds = RUN_S * bench.random.uniform(0.3, 3.0)
        costs.learn(instance, bench.random.choice(bench.works), seconds, loaded=(), now=number)


async def let_run(rounds: int) -> None:
    """Whatever can go on without time or network."""
    for _ in range(rounds):
        await asyncio.sleep(0)


async def door(bench: Bench, waiting: int, count: int) -> Times:
    """Give back one place after the other while ``waiting`` jobs wait for one."""
    scheduler = bench.cluster.scheduler

    async def alive(instance: Instance) -> bool:
        return True

    bench.cluster.health_checker.check = alive  # type: ignore[method-assign]
    held: list[Placement] = []

    async def job(number: int) -> None:
        what = bench.works[number % len(bench.works)]
        held.append(
            await scheduler.place(
                since=bench.cluster.clock.monotonic() + number / 1e6, work_at=lambda at: what
            )
        )

    places = sum(one.capacity for one in bench.cluster.instances)
    tasks = [asyncio.create_task(job(number)) for number in range(places + waiting)]
    await let_run(places + waiting)
    times = Times()
    for _ in range(count):
        placement = held.pop(bench.random.randrange(len(held)))
        tasks.append(asyncio.create_task(job(bench.random.randrange(len(bench.works)))))
        await let_run(5)
        with times.timed("opened"):
            placement.release()
        with times.timed("woken"):
            await let_run(5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return times


class Waiting:
    """What a ledger tells of the prompts that wait, and nothing else."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.there: dict[Instance, list[Prompt]] = {one: [] for one in bench.cluster.instances}

    def at(self, instance: Instance) -> list[Prompt]:
        return self.there[instance]

    def comes(self, instance: Instance, what: Work) -> None:
        """A client's prompt waits there from now on."""
        post = ClientPost(
            path="/prompt", client_id="client", headers=PostHeaders({}), body=b"", graph={}
        )
        attempt = Attempt(instance=instance, generation=0, sent_at=0.0, accepted_at=0.0)
        prompt = Prompt(
            prompt_id=str(self.bench.random.random()),
            post=post,
            work=what,
            state=State.QUEUED,
            attempts=[attempt],
        )
        planner = self.bench.planner
        planner.join(planner.slot(prompt, what, instance, prompt.standing), instance)
        self.there[instance].append(prompt)
        instance.prompts.external_jobs += 1

    def ends(self, instance: Instance) -> None:
        """The one that runs there ends, and the next one begins."""
        first, second = self.there[instance][:2]
        del self.there[instance][0]
        line = self.bench.planner.lines[instance]
        line.leave(first)
        instance.prompts.external_jobs -= 1
        line.begin(second, self.bench.cluster.clock.monotonic())


def rebalance(bench: Bench, count: int) -> Times:
    """Look ``count`` times at clients' prompts, of which none had better go elsewhere, and then as
    often when all had."""
    ledger, times = Waiting(bench), Times()
    bench.clock.stopped_at = bench.clock.monotonic()
    uneven = Uneven(bench.cluster, ledger)  # type: ignore[arg-type]
    late_runs = LateRuns(
        bench.planner,
        bench.cluster.clock,
        instances=lambda: bench.cluster.instances,
        movable=uneven.movable,
        again=lambda: None,
    )
    works = {one: bench.random.choice(bench.works) for one in bench.cluster.instances[::2]}
    for instance, what in works.items():
        bench.planner.lines[instance].loaded.began(what.models)
        for _ in range(3):
            ledger.comes(instance, what)
        bench.planner.lines[instance].begin(
            ledger.there[instance][0], bench.cluster.clock.monotonic()
        )
    for name, more in (("clients", 0), ("found", 10)):
        for instance, what in works.items():
            for _ in range(more):
                ledger.comes(instance, what)
        for _ in range(count):
            instance, what = bench.random.choice(list(works.items()))
            ledger.comes(instance, what)
            ledger.ends(instance)
            with times.timed(name):
                found = next(uneven.pairs(), None)
                if found is None:
                    late_runs.foresee()
            late_runs.close()
            assert (found is not None) == (name == "found")
    return times


def rebalance_jobs(bench: Bench, count: int) -> Times:
    """Look ``count`` times at jobs' prompts of which none had better go elsewhere."""
    scheduler, times = bench.cluster.scheduler, Times()
    bench.clock.stopped_at = bench.clock.monotonic()
    held: dict[Instance, list[Placement]] = {}

    def comes(instance: Instance, what: Work) -> Placement:
        placement = scheduler._placement(instance, lambda other: True, work=what)
        placement.in_queue = True
        return placement

    def begins(instance: Instance) -> None:
        first = held[instance][0]
        first.running = True
        bench.planner.lines[instance].begin(first, bench.cluster.clock.monotonic())

    works = {one: bench.random.choice(bench.works) for one in bench.cluster.instances[::2]}
    for instance, what in works.items():
        bench.planner.lines[instance].loaded.began(what.models)
        held[instance] = [comes(instance, what) for _ in range(3)]
        begins(instance)
    for _ in range(count):
        instance, what = bench.random.choice(list(works.items()))
        held[instance].pop(0).release()
        held[instance].append(comes(instance, what))
        begins(instance)
        with times.timed("jobs"):
            scheduler.rebalance()
    assert not any(one.move_to for placements in held.values() for one in placements)
    return times


async def with_loop(run: Callable[[Bench, int], Times], bench: Bench, count: int) -> Times:
    """``run``, of which something asks for what is done soon; that is dropped."""
    times = run(bench, count)
    await bench.cluster.scheduler.close()
    return times


@contextmanager
def profiled() -> Iterator[None]:
    profile = cProfile.Profile()
    profile.enable()
    yield
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def rows(options: argparse.Namespace) -> dict[str, Callable[[Bench], Times]]:
    waiting, count = options.waiting, options.choices
    return {
        "choice": lambda bench: choices(bench, waiting, count),
        "choice, costs change every 5": lambda bench: choices(
            bench, waiting, count, costs_change_every=5
        ),
        "door": lambda bench: asyncio.run(door(bench, waiting, max(20, count // 20))),
        "rebalance": lambda bench: asyncio.run(with_loop(rebalance, bench, max(20, count // 10))),
        "rebalance of jobs": lambda bench: asyncio.run(
            with_loop(rebalance_jobs, bench, max(20, count // 10))
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--choices", type=int, default=2000)
    parser.add_argument("--kinds", type=int, default=6)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--instances", type=int, nargs="+", default=[2, 20, 300])
    parser.add_argument("--row", action="append", choices=rows(parser.parse_args([])))
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    worst: dict[str, Any] = {}
    for instances in options.instances:
        print(f"{instances} instances, {options.waiting} waiting", flush=True)
        for title, run in rows(options).items():
            if options.row and title not in options.row:
                continue
            bench = Bench(instances, options)
            gc.collect()
            profile = options.profile and instances == max(options.instances)
            with profiled() if profile else nullcontext():
                times = run(bench)
            times.tell(title)
            worst[title] = times
    print(f"goal: p99 of a choice at most {GOAL_MS:g} ms at {max(options.instances)} instances")


if __name__ == "__main__":
    main()
