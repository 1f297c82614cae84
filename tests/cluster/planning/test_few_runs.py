"""An instance of which little is known keeps its share of the work, until it has shown that it is
slow: a first run also imports, compiles and allocates."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import orjson
import pytest
from manual_clock import ManualClock
from plan_harness import LOAD_S, planner_of, slot, work

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.cluster.planning.experience import FIRST_RUNS, Experience
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.samples import ENOUGH_RUNS
from comfy_proxy.cluster.planning.work import Work

A, PLAIN = work("a"), work()
WARM_S = 5.0
FIRST_S = 9.0
"""A warm run, and one that is the first of its kind in a process."""


class Gpus:
    """Instances that run one prompt after the other, each where the planner wants it. ``slowness``
    multiplies what one takes; ``lag_s`` comes on top of its next run."""

    def __init__(self, planner: Planner, clock: ManualClock) -> None:
        self.planner, self.clock = planner, clock
        self.experience = Experience(planner, clock)
        self.slowness: dict[Instance, float] = {}
        self.lag_s: dict[Instance, float] = {}
        self.held: dict[Instance, Work] = {}
        self.loads: list[Instance] = []
        self._balancer = LoadBalancer(planner.lines)

    async def run(self, what: Work = PLAIN, *, at: Instance | None = None) -> Instance:
        """One prompt while all are idle; ``at`` if the others are away. Where it ran."""
        there = list(self.planner.lines) if at is None else [at]
        best = self.planner.best(slot("x", what), there)
        chosen = min([one.instance for one in best] or there, key=self._balancer.rank)
        self._balancer.took(chosen)
        line = self.planner.lines[chosen]
        line.join(self.planner.slot("x", what, chosen))
        run = self.experience.begins(line.find("x"), line, chosen, self.clock.monotonic())
        line.begin("x", self.clock.monotonic())
        seconds = WARM_S * what.effort * self.slowness.get(chosen, 1.0)
        seconds += self.lag_s.pop(chosen, 0.0)
        if what.models and self.held.get(chosen) is not what:
            self.held[chosen] = what
            self.loads.append(chosen)
            seconds += LOAD_S
            run.load_s = LOAD_S
        await self.clock.advance(seconds)
        line.leave("x")
        self.experience.ended(run, seconds, worked=True)
        return chosen

    async def share(self, count: int, *works: Work) -> Counter[Instance]:
        """Of so many prompts, one after the other and the works in turn."""
        works = works or (PLAIN,)
        return Counter([await self.run(works[number % len(works)]) for number in range(count)])

    def queued(self, count: int) -> Counter[Instance]:
        """Where so many prompts would go that came at once; then they are taken back."""
        lines = self.planner.lines
        where = {}
        for key in range(count):
            figure = self.planner.best(slot(key, PLAIN), list(lines))[0]
            where[key] = figure.instance
            lines[figure.instance].join(self.planner.slot(key, PLAIN, figure.instance))
        for key, instance in where.items():
            lines[instance].leave(key)
        return Counter(where.values())


@pytest.fixture
def gpus(clock: ManualClock) -> Gpus:
    return Gpus(planner_of(clock), clock)


@pytest.fixture
def one(gpus: Gpus) -> Instance:
    return next(iter(gpus.planner.lines))


@pytest.fixture
def two(gpus: Gpus) -> Instance:
    return list(gpus.planner.lines)[1]


async def first(gpus: Gpus, what: Work, at: Instance) -> None:
    """It runs there for the first time."""
    gpus.lag_s[at] = FIRST_S - WARM_S
    await gpus.run(what, at=at)


async def warm(gpus: Gpus, what: Work, at: Instance, count: int = 20) -> None:
    for _ in range(count):
        await gpus.run(what, at=at)


def is_even(shares: Counter[Instance], count: int = 2) -> bool:
    """Each of ``count`` instances has had its share, a few more or less."""
    return len(shares) == count and min(shares.values()) >= 0.8 * shares.total() / count


# --- a first run ---------------------------------------------------------------------------------


async def test_an_instance_whose_only_run_was_its_first_gets_its_share_again(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """The other one went on while it was away, and learned what a warm run takes."""
    await first(gpus, PLAIN, one)
    await warm(gpus, PLAIN, two)
    assert is_even(await gpus.share(10))
    assert gpus.planner.run_s(PLAIN, one) == WARM_S


async def test_the_same_of_work_with_models(gpus: Gpus, one: Instance, two: Instance) -> None:
    """Both have them loaded; the node that names a model was done long before it was used."""
    await first(gpus, A, one)
    await warm(gpus, A, two)
    assert is_even(await gpus.share(10, A))
    assert gpus.loads == [one, two]


async def test_the_state_file_brings_no_first_run_back(
    gpus: Gpus, one: Instance, two: Instance, clock: ManualClock
) -> None:
    """What was kept counts for as much as before: so many runs, each as long as it was."""
    await first(gpus, PLAIN, one)
    await warm(gpus, PLAIN, two)
    kept = orjson.loads(orjson.dumps(gpus.planner.costs.export(lambda one: one.id, now=0.0)))
    after = Gpus(planner_of(clock), clock)
    names = {instance.id: instance for instance in after.planner.lines}
    after.planner.costs.restore(kept, names.get, now=0.0)
    assert is_even(await after.share(10))


async def test_speeds_of_an_earlier_version_are_learned_anew(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """They may come from one first run; they are told apart by what an earlier one did not tell."""
    await first(gpus, PLAIN, one)
    await warm(gpus, PLAIN, two)
    costs = gpus.planner.costs
    kept = costs.export(lambda one: one.id, now=0.0) | {"speeds": {"1": 3.0, "2": 1 / 3}}
    del kept["speeds_of_runs"]
    costs.restore(kept, {one.id: one for one in gpus.planner.lines}.get, now=0.0)
    assert costs.speed(one) == costs.speed(two) == 1.0
    assert is_even(await gpus.share(10))


async def test_a_first_run_says_nothing_of_other_work(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """No instance is slower at all it has never run because one first run was slow."""
    await first(gpus, PLAIN, one)
    await warm(gpus, PLAIN, two)
    other = work(kind="other")
    await warm(gpus, other, two)
    assert gpus.planner.run_s(other, one) == pytest.approx(WARM_S)
    assert is_even(await gpus.share(10, other))


async def test_nor_of_work_of_which_nothing_is_known(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """What is not known counts as an average one, and one first run is no average."""
    await first(gpus, PLAIN, one)
    await warm(gpus, PLAIN, two)
    unknown = work(kind="new")
    assert gpus.planner.run_s(unknown, one) == gpus.planner.run_s(unknown, two)
    assert is_even(await gpus.share(10, unknown))


async def test_nor_of_other_sizes(gpus: Gpus, one: Instance, two: Instance) -> None:
    """No two prompts need be of one size, like pictures that are given."""
    sizes = [
        replace(work(kind="given", size=str(number)), effort=1 + number / 100)
        for number in range(40)
    ]
    await first(gpus, sizes[0], one)
    for size in sizes[1:20]:
        await warm(gpus, size, two, 1)
    assert is_even(await gpus.share(20, *sizes[20:]))


async def test_a_run_that_was_the_only_one_anywhere_is_corrected_by_the_next(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """Wherever that is."""
    await first(gpus, PLAIN, one)
    assert is_even(await gpus.share(20))
    for instance in (one, two):
        assert gpus.planner.run_s(PLAIN, instance) == pytest.approx(WARM_S)


async def test_an_instance_that_is_new_beside_one_with_a_hundred_runs(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    await warm(gpus, PLAIN, two, 100)
    gpus.lag_s[one] = 10 * WARM_S
    assert is_even(await gpus.share(20))


async def test_an_instance_that_returns_pays_its_load_and_is_no_slower(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """Nothing is loaded there, and its first run is slow once more: both are no time of its own."""
    await first(gpus, A, one)
    gpus.planner.restarted(one)
    del gpus.held[one]
    await warm(gpus, A, two)
    await first(gpus, A, one)
    assert gpus.planner.run_s(A, one) == pytest.approx(WARM_S)
    assert gpus.planner.costs.load_s(one, A.models) == pytest.approx(LOAD_S, rel=0.5)
    assert is_even(await gpus.share(10, A))


@pytest.mark.parametrize("before", range(6))
async def test_one_outlier_among_warm_runs_costs_no_share(
    gpus: Gpus, one: Instance, two: Instance, before: int
) -> None:
    """However many runs there were before it: a neighbour used the GPU, or a disk was slow."""
    await warm(gpus, PLAIN, two)
    await warm(gpus, PLAIN, one, before)
    gpus.lag_s[one] = 20 * WARM_S
    await gpus.run(at=one)
    assert is_even(await gpus.share(10))


# --- what is slow indeed -------------------------------------------------------------------------


@pytest.mark.parametrize("what", [PLAIN, A], ids=["plain", "model"])
async def test_one_that_is_twice_as_slow_is_known_to_be_after_a_few_runs(
    gpus: Gpus, one: Instance, two: Instance, what: Work
) -> None:
    """Then it gets work only while the others have enough of it."""
    await warm(gpus, what, two)
    gpus.slowness[one] = 2.0
    if what.models:
        await gpus.run(what, at=one)
    shares = await gpus.share(20, what)
    assert shares[one] <= ENOUGH_RUNS + FIRST_RUNS
    assert await gpus.share(10, what) == {two: 10}
    assert gpus.planner.run_s(what, one) == pytest.approx(2 * WARM_S)
    assert gpus.planner.costs.speed(one) / gpus.planner.costs.speed(two) == pytest.approx(2)


async def test_of_a_queue_it_gets_what_it_can_finish(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """A third, once it is known to be twice as slow; half of it before."""
    await warm(gpus, PLAIN, two)
    gpus.slowness[one] = 2.0
    assert gpus.queued(30)[one] in (14, 15, 16)
    await warm(gpus, PLAIN, one, FIRST_RUNS + ENOUGH_RUNS)
    assert gpus.queued(30)[one] in (9, 10, 11)


async def test_what_is_slow_is_slow_at_other_work_too(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """Without being tried with each: its speed is known by what both have run often enough."""
    gpus.slowness[one] = 2.0
    for instance in (one, two):
        await warm(gpus, PLAIN, instance, FIRST_RUNS + ENOUGH_RUNS)
    others = [work(kind=f"new {number}") for number in range(5)]
    for other in others:
        await warm(gpus, other, two, ENOUGH_RUNS)
    assert await gpus.share(20, *others) == {two: 20}


async def test_what_is_slow_shows_in_many_works_of_a_few_runs_each(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """Clients change sizes and steps: no work has to be repeated for it."""
    gpus.slowness[one] = 2.0
    sizes = [work(kind=f"kind {number}") for number in range(2 * ENOUGH_RUNS)]
    for instance in (one, two):
        for size in sizes:
            await warm(gpus, size, instance, 1)
    assert gpus.planner.costs.speed(one) / gpus.planner.costs.speed(two) == pytest.approx(2)
    assert await gpus.share(20, work(kind="next")) == {two: 20}


async def test_a_load_that_takes_less_than_a_first_run_is_known_to_be_one(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """Its models had to give way to others: neither a time of its own nor more memory than that."""
    gpus.lag_s[one] = 4 * LOAD_S
    await gpus.run(A, at=one)
    await warm(gpus, A, two)
    await gpus.run(work("b"), at=one)
    memory = gpus.planner.lines[one].loaded.memory.sets
    await gpus.run(A, at=one)
    assert gpus.planner.lines[one].loaded.memory.sets == memory
    assert gpus.planner.run_s(A, one) == pytest.approx(WARM_S)
    assert gpus.planner.costs.load_s(one, A.models) == pytest.approx(LOAD_S)


async def test_one_that_is_faster_is_known_to_be(gpus: Gpus, one: Instance, two: Instance) -> None:
    await warm(gpus, PLAIN, two)
    gpus.slowness[one] = 0.5
    shares = await gpus.share(20)
    assert shares[two] <= ENOUGH_RUNS
    assert gpus.planner.run_s(PLAIN, one) == pytest.approx(WARM_S / 2)


async def test_warm_runs_of_a_slow_one_are_no_loads(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """They take longer than elsewhere, and its models are there all the same."""
    await warm(gpus, A, two)
    gpus.slowness[one] = 3.0
    heard: list[bool] = []
    gpus.experience.on_run.append(lambda use: heard.append(use.loaded))
    await warm(gpus, A, one, 6)
    assert heard == [True, *[False] * 5]


async def test_work_of_two_qualities_is_compared_with_its_like(
    gpus: Gpus, one: Instance, two: Instance
) -> None:
    """Instances with other models run other variants of a workflow: a better one that takes longer
    is not taken to be as quick, and its instance not to be slow."""
    better, quick = work("full", size="full"), work("small", size="small")
    gpus.slowness[one] = 4.0
    await warm(gpus, better, one, ENOUGH_RUNS - 1)
    gpus.slowness.clear()
    await warm(gpus, quick, two)
    assert gpus.planner.run_s(better, one) == 4 * WARM_S
    assert gpus.planner.costs.speed(one) == gpus.planner.costs.speed(two) == 1.0


async def test_models_stay_where_they_are_loaded(gpus: Gpus, one: Instance, two: Instance) -> None:
    """A first run there is no reason to load them elsewhere."""
    await first(gpus, A, one)
    assert await gpus.share(10, A) == {one: 10}
    assert gpus.loads == [one]
