"""Story 1.1: which instance is next."""

from __future__ import annotations

from collections import Counter

import pytest
from cluster_harness import make_instance
from manual_clock import ManualClock

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.settings import load_settings


@pytest.fixture
def pair(clock: ManualClock) -> tuple[Instance, Instance]:
    return make_instance(clock, 1), make_instance(clock, 2)


@pytest.fixture
def balancer(pair: tuple[Instance, Instance]) -> LoadBalancer:
    return LoadBalancer(pair)


def break_circuit(instance: Instance) -> None:
    for _ in range(3):
        instance.check_failed("refused")


def test_the_pair_without_configuration() -> None:
    """Two instances, localhost:8188 and localhost:8189, with nothing set."""
    instances = Cluster(load_settings({})).load_balancer.instances
    assert [instance.host for instance in instances] == ["localhost:8188", "localhost:8189"]


def test_the_pair_from_the_environment() -> None:
    """COMFYUI_HOST_1 and COMFYUI_HOST_2 name the instances."""
    settings = load_settings({"COMFYUI_HOST_2": "b:2", "COMFYUI_HOST_1": "a:1"})
    assert [i.host for i in Cluster(settings).load_balancer.instances] == ["a:1", "b:2"]


def test_equals_take_turns(balancer: LoadBalancer, pair: tuple[Instance, Instance]) -> None:
    """Ties are broken round-robin."""
    chosen = [balancer.get_available_instance() for _ in range(4)]
    assert chosen == [pair[0], pair[1], pair[0], pair[1]]


def test_fewest_jobs_first(balancer: LoadBalancer, pair: tuple[Instance, Instance]) -> None:
    """The instance with fewer active jobs is preferred, whosever turn it is."""
    Placement(pair[0])
    assert [balancer.get_available_instance() for _ in range(3)] == [pair[1]] * 3


def test_others_load_counts(balancer: LoadBalancer, pair: tuple[Instance, Instance]) -> None:
    """Jobs that others put there count as much as ours."""
    pair[0].prompts.observed(2)
    Placement(pair[1])
    assert balancer.get_available_instance() is pair[1]


def test_jobs_spread_evenly(balancer: LoadBalancer, pair: tuple[Instance, Instance]) -> None:
    """Placing what is chosen spreads a burst over both, and active jobs are counted for each."""
    for _ in range(6):
        Placement(balancer.get_available_instance())
    assert [instance.active_jobs for instance in pair] == [3, 3]


def test_unhealthy_is_left_out(balancer: LoadBalancer, pair: tuple[Instance, Instance]) -> None:
    """A failed instance gets nothing, even if it is the less loaded one; it comes back healed."""
    break_circuit(pair[0])
    Placement(pair[1])
    assert balancer.get_available_instance() is pair[1]
    assert balancer.primary() is pair[1]


async def test_recovered_takes_part_again(
    balancer: LoadBalancer, pair: tuple[Instance, Instance], clock: ManualClock
) -> None:
    """After a passed check it is chosen like any other."""
    break_circuit(pair[0])
    await clock.advance(1)
    pair[0].breaker.begin_trial()
    pair[0].check_passed(0.01)
    assert {balancer.get_available_instance() for _ in range(2)} == set(pair)


def test_none_healthy_is_a_clear_error(
    balancer: LoadBalancer, pair: tuple[Instance, Instance]
) -> None:
    """With nobody left the error names each instance and why it cannot be used."""
    break_circuit(pair[0])
    with pytest.raises(NoHealthyInstanceError) as caught:
        balancer.get_available_instance(exclude=[pair[1]])
    assert caught.value.details == {"instances": {"gpu1:8188": "open", "gpu2:8188": "passed over"}}
    assert (caught.value.status, caught.value.code) == (503, "no_instance")
    assert caught.value.retry_after_s
    with pytest.raises(NoHealthyInstanceError):
        balancer.primary(exclude=[pair[1]])


def test_accepts_filters(balancer: LoadBalancer, pair: tuple[Instance, Instance]) -> None:
    """Only instances that can run the prompt are considered."""
    Placement(pair[1])
    assert balancer.get_available_instance(accepts=lambda i: i is pair[1]) is pair[1]


def test_primary_is_the_first_healthy(
    balancer: LoadBalancer, pair: tuple[Instance, Instance]
) -> None:
    """What belongs together meets the same instance, whatever the load."""
    Placement(pair[0])
    assert [balancer.primary() for _ in range(3)] == [pair[0]] * 3
    assert balancer.primary(exclude=[pair[0]]) is pair[1]


def test_ties_among_three_are_fair(clock: ManualClock) -> None:
    """Round robin holds for any number of instances, also with one left out in between."""
    trio = [make_instance(clock, number) for number in (1, 2, 3)]
    balancer = LoadBalancer(trio)
    counts = Counter(
        balancer.get_available_instance(exclude=[trio[1]] if turn % 4 == 0 else []).id
        for turn in range(24)
    )
    assert min(counts.values()) >= 6
    assert repr(balancer).startswith("<LoadBalancer [<Instance 1 ")
