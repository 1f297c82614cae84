"""cluster/planning/decision.py: why a prompt went where it went, in one plain sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.decision import Candidate, Decision, decide, moved
from comfy_proxy.cluster.planning.figures import Figure
from comfy_proxy.cluster.planning.slot import Option
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.errors import InstanceUnreachableError

Make = Callable[..., Cluster]


def work(model: str) -> Work:
    return Work(
        kind=model,
        fingerprint=model,
        models=(model,),
        loaders=frozenset({"1"}),
        effort=1.0,
        reads=frozenset(),
        writes=frozenset(),
    )


A, B = work("a.safetensors"), work("b.safetensors")


@pytest.fixture
def cluster(make_cluster: Make, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Two instances that answer each check; nothing is known of costs."""
    silent: set[str] = set()

    async def check(self: ComfyUIClient, timeout_s: float) -> None:
        if self.instance.host in silent:
            raise InstanceUnreachableError("refused")

    monkeypatch.setattr(ComfyUIClient, "check", check)
    made = make_cluster("gpu1:1", "gpu2:1")
    made.silent = silent  # type: ignore[attr-defined]
    return made


def learn(cluster: Cluster, *works: Work, run_s: float = 1.0, load_s: float = 4.0) -> None:
    """What they cost, the same everywhere."""
    for instance in cluster.instances:
        for one in works:
            costs, seconds = cluster.planner.costs, run_s + load_s
            costs.learn(instance, one, run_s, loaded=(), now=0)
            costs.learn(instance, one, seconds, loaded=one.models, load_s=load_s, now=0)


def has_loaded(cluster: Cluster, instance: Instance, one: Work) -> None:
    cluster.planner.lines[instance].loaded.began(one.models)


async def placed(cluster: Cluster, one: Work | None, **options: object) -> Placement:
    return await cluster.scheduler.place(
        since=cluster.clock.monotonic(),
        work_at=lambda instance: one,
        **options,  # type: ignore[arg-type]
    )


def figure(
    instance: Instance, *, wait: float = 0, load: float = 0, run: float = 1, harm: float = 0
) -> Figure:
    option = Option(behind_s=wait, load_s=load, run_s=run)
    return Figure(instance=instance, work=A, free_in_s=0.0, option=option, harm_s=harm)


# --- the sentence --------------------------------------------------------------------------------


def why(cluster: Cluster, one: Figure, *others: Figure) -> str:
    return decide(one.instance, [one, *others], cluster.planner).reason


def test_what_is_loaded_decides(cluster: Cluster) -> None:
    """Said only if it was the load that made the difference, and if it is there already."""
    one, two = cluster.instances
    has_loaded(cluster, one, A)
    assert why(cluster, figure(one), figure(two, load=4)) == "its models are loaded there"
    cluster.planner.forget_loaded(one)
    assert why(cluster, figure(one, wait=2), figure(two, load=4)) == (
        "its models are loaded there when its turn comes"
    )
    assert why(cluster, figure(one), figure(two, wait=9, load=4)) == (
        "it is finished first there: 1 s against 14 s at gpu2:1"
    )


@pytest.mark.parametrize(
    ("run", "wait", "told"),
    [(0.4, 1.5, "0.4 s against 1.9 s"), (12.345, 0.7, "12.3 s against 13 s"),
     (0.041, 0.12, "0.04 s against 0.16 s")],
)  # fmt: skip
def test_the_earliest_finish_decides(cluster: Cluster, run: float, wait: float, told: str) -> None:
    """In seconds that people read, and against the best of the others."""
    one, two = cluster.instances
    told = f"it is finished first there: {told} at gpu2:1"
    assert why(cluster, figure(one, run=run), figure(two, run=run, wait=wait)) == told


def test_equals_are_said_to_be_equal(cluster: Cluster) -> None:
    """Within what counts as equal the fewest prompts have decided."""
    one, two = cluster.instances
    reason = "fewest prompts of those that finish it first"
    assert why(cluster, figure(one, wait=0.04), figure(two)) == reason
    assert why(cluster, figure(one), figure(two, wait=0.04)) == reason


def test_the_loads_of_others_decide(cluster: Cluster) -> None:
    """It goes where it is finished later, because of what it would push out elsewhere."""
    one, two = cluster.instances
    assert why(cluster, figure(one, wait=2), figure(two, harm=4)) == (
        "at gpu2:1 others would have to load for 4 s because of it"
    )


def test_all_figures_in_one_line(cluster: Cluster) -> None:
    """For the log."""
    one, two = cluster.instances
    figures = [figure(one, wait=0.5, load=1.5), figure(two, wait=3, harm=2)]
    assert str(decide(one, figures, cluster.planner)) == (
        "it is finished first there: 3 s against 4 s at gpu2:1 (waits 0.5 s, loads 1.5 s,"
        " runs 1 s; gpu2:1: done in 4 s, costs others 2 s)"
    )
    assert "costs others 2 s;" in str(decide(two, figures, cluster.planner))
    assert str(decide(one, [], cluster.planner)) == "fewest prompts (nothing is known of its cost)"


def test_of_many_instances_the_best_are_remembered(make_cluster: Make) -> None:
    """Eight alternatives, the best first; nothing of them keeps a prompt alive."""
    cluster = make_cluster(*(f"gpu{number}:1" for number in range(20)))
    figures = [figure(one, wait=40 - at) for at, one in enumerate(cluster.instances)]
    made = decide(figures[3].instance, figures, cluster.planner)
    assert made.chosen == Candidate(host="gpu3:1", wait_s=37, load_s=0, run_s=1)
    assert [one.host for one in made.alternatives] == [f"gpu{n}:1" for n in range(19, 11, -1)]
    assert {type(one) for one in made.alternatives} == {Candidate}


# --- places of jobs ------------------------------------------------------------------------------


async def reasons(
    cluster: Cluster, *works: Work | None, **options: object
) -> Sequence[tuple[str, str]]:
    """Where each of them is placed, one after the other, and why."""
    placements = [await placed(cluster, one, **options) for one in works]
    told = []
    for one in placements:
        assert one.decision is not None
        assert one.decision.host == one.instance.host
        told.append((one.instance.host, one.decision.reason))
        one.release()
    return told


async def test_places_without_costs(cluster: Cluster) -> None:
    """By the fewest prompts, which is said."""
    fewest = "fewest prompts (nothing is known of its cost)"
    assert await reasons(cluster, None, A) == [("gpu1:1", fewest), ("gpu2:1", fewest)]


async def test_places_by_cost(cluster: Cluster) -> None:
    """With the seconds of all."""
    learn(cluster, A, B)
    has_loaded(cluster, cluster.instances[1], A)
    placement = await placed(cluster, A)
    assert placement.decision == Decision(
        host="gpu2:1",
        reason="its models are loaded there",
        chosen=Candidate(host="gpu2:1", wait_s=0, load_s=0, run_s=1),
        alternatives=(Candidate(host="gpu1:1", wait_s=0, load_s=4, run_s=1),),
    )


async def test_nothing_to_choose(cluster: Cluster) -> None:
    """One alone can run it; or is left after others failed it, or the check."""
    learn(cluster, A)
    one, two = cluster.instances
    only = await reasons(cluster, A, None, accepts=lambda instance: instance is one)
    assert only == [("gpu1:1", "the only instance that can run it")] * 2
    left = await reasons(cluster, A, avoid={two})
    assert left == [("gpu1:1", "the only instance left that can run it")]
    cluster.silent.add(two.host)  # type: ignore[attr-defined]
    has_loaded(cluster, two, A)
    assert await reasons(cluster, A) == left


async def test_one_that_is_busy(cluster: Cluster) -> None:
    """It missed its check, as the others did, and has just sent frames."""
    cluster.silent.update(("gpu1:1", "gpu2:1"))  # type: ignore[attr-defined]
    cluster.instances[0].signs.frame_seen()
    assert await reasons(cluster, A) == [
        ("gpu1:1", "no instance has answered the check, and this one is busy, not dead")
    ]


async def test_of_one_alone_it_is_known_what_it_can_run(cluster: Cluster) -> None:
    """The other one has not told yet, so it has no figure."""
    learn(cluster, A)
    one, _ = cluster.instances
    placement = await cluster.scheduler.place(
        since=0, work_at=lambda instance: A if instance is one else None
    )
    assert placement.decision is not None
    assert placement.decision.reason == "the only instance of which it is known what it can run"


# --- moves ---------------------------------------------------------------------------------------


async def waiting(cluster: Cluster, one: Work | None, count: int) -> list[Placement]:
    """So many that wait at the first instance."""
    here = cluster.instances[0]
    places = [await placed(cluster, one, accepts=lambda i: i is here) for _ in range(count)]
    for place in places:
        place.in_queue, place.accepts = True, lambda instance: True
    return places


async def test_a_move_by_cost(cluster: Cluster) -> None:
    """When it will be finished there, and when it would be here."""
    learn(cluster, A, run_s=2, load_s=1)
    *_, last = await waiting(cluster, A, 3)
    cluster.scheduler.rebalance()
    assert last.move_to is not None
    assert last.move_to.decision == Decision(
        host="gpu2:1",
        reason="it was moved there: 3 s against 7 s at gpu1:1",
        chosen=Candidate(host="gpu2:1", wait_s=0, load_s=1, run_s=2),
        alternatives=(Candidate(host="gpu1:1", wait_s=5, load_s=0, run_s=2),),
    )


async def test_a_move_without_costs(cluster: Cluster) -> None:
    """By the number of prompts; the same for one that is not known there at all."""
    *_, last = await waiting(cluster, None, 3)
    cluster.scheduler.rebalance()
    assert last.move_to is not None
    fewer = Decision(host="gpu2:1", reason="it was moved there: fewer prompts than at gpu1:1")
    assert last.move_to.decision == fewer
    assert moved("nobody", *cluster.instances, cluster.planner) == fewer
