"""An instance's live state: verdicts, busy protection, load."""

from __future__ import annotations

import asyncio

import pytest
from cluster_harness import make_instance
from loguru import logger
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.circuit_breaker import CircuitState
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.errors import (
    InstanceRefusedError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    InvalidAnswerError,
    PromptLostError,
    PromptRejectedError,
)
from comfy_proxy.metrics.records import Attempt, Verdict


@pytest.fixture
def instance(clock: ManualClock) -> Instance:
    return make_instance(clock)


def queued(instance: Instance) -> Placement:
    placement = Placement(instance)
    placement.in_queue = True
    return placement


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://localhost:8188", "localhost:8188"),
        ("http://gpu", "gpu:80"),
        ("http://gpu:80", "gpu:80"),
        ("https://gpu2/comfy", "gpu2:443/comfy"),
        ("http://[::1]:8188", "[::1]:8188"),
    ],
)
def test_host_always_names_the_port(url: str, host: str, clock: ManualClock) -> None:
    """``host:port`` as the contract shows it, whether or not the port is the default one."""
    assert Instance(id="1", url=URL(url), clock=clock).host == host


def test_questions(instance: Instance) -> None:
    """Available is healthy and not full; full is as many prompts as there are connections."""
    placements = [Placement(instance) for _ in range(3)]
    assert (instance.healthy, instance.full, instance.available) == (True, True, False)
    placements[0].release()
    assert (instance.full, instance.available) == (False, True)
    for _ in range(3):
        instance.check_failed("refused")
    assert (instance.healthy, instance.available) == (False, False)
    assert repr(instance) == "<Instance 1 gpu1:8188 open active=2 external=0>"


@pytest.mark.parametrize(
    ("error", "verdict", "strikes"),
    [
        (None, Verdict.OK, 0),
        (PromptRejectedError("400"), Verdict.OK, 0),
        (InstanceRefusedError("500"), Verdict.OK, 0),
        (PromptLostError("404"), Verdict.OK, 0),
        (ValueError("our own fault"), Verdict.OK, 0),
        (InstanceUnreachableError("reset"), Verdict.INSTANCE_FAULT, 2),
        (InstanceTimeoutError("late"), Verdict.INSTANCE_FAULT, 2),
        (InvalidAnswerError("HTML"), Verdict.INSTANCE_FAULT, 2),
        (asyncio.CancelledError(), Verdict.CLIENT_GONE, 1),
    ],
)
async def test_verdicts(
    instance: Instance, error: BaseException | None, verdict: Verdict, strikes: int
) -> None:
    """An answer proves life, a fault is a strike, a client that left is neither."""
    told: list[Attempt] = []
    instance.observers.append(told.append)
    instance.fault("one strike before")

    async def exchange() -> None:
        with instance.attempt("view"):
            if error is not None:
                raise error

    if error is None:
        await exchange()
    else:
        with pytest.raises(type(error)):
            await exchange()
    assert instance.breaker.consecutive_failures == strikes
    assert [(one.kind, one.verdict, one.instance) for one in told] == [
        ("view", verdict, "gpu1:8188")
    ]


async def test_attempt_is_timed_on_the_clock(instance: Instance, clock: ManualClock) -> None:
    """The record of an attempt says how long it took."""
    told: list[Attempt] = []
    instance.observers.append(told.append)
    with instance.attempt("prompt"):
        await clock.advance(2.5)
    assert (told[0].duration_s, told[0].error) == (2.5, None)


async def test_busy_is_not_dead(instance: Instance, clock: ManualClock) -> None:
    """A check that fails within two seconds of a frame is no strike; later it is one."""
    instance.frame_seen()
    await clock.advance(2.0)
    instance.check_failed("no answer in 300 ms")
    assert instance.breaker.consecutive_failures == 0
    assert instance.failing
    await clock.advance(0.1)
    instance.check_failed("no answer in 300 ms")
    assert instance.breaker.consecutive_failures == 1


async def test_broken_socket_ends_the_protection(instance: Instance) -> None:
    """Frames from before the socket broke off prove nothing."""
    instance.frame_seen()
    instance.socket_lost()
    assert not instance.signs.alive_just_now
    instance.check_failed("refused")
    assert instance.breaker.consecutive_failures == 1


async def test_busy_instance_does_not_end_somebodys_trial(
    instance: Instance, clock: ManualClock
) -> None:
    """A request that fails while frames come leaves the half-open trial to its own verdict."""
    for _ in range(3):
        instance.check_failed("refused")
    await clock.advance(1)
    assert instance.breaker.begin_trial()
    instance.frame_seen()
    instance.fault("an old download broke off")
    assert instance.breaker.state is CircuitState.HALF_OPEN
    instance.check_failed("late, but frames come")
    assert instance.breaker.state is CircuitState.OPEN
    await clock.advance(1)
    assert instance.breaker.begin_trial()
    instance.check_passed(0.01)
    assert instance.healthy


async def test_checks_leave_their_times(instance: Instance, clock: ManualClock) -> None:
    """Last check, last success and response time are what /health shows."""
    instance.check_passed(0.02)
    passed = clock.now()
    await clock.advance(30)
    instance.check_failed("refused")
    assert instance.last_success == passed
    assert instance.last_check == clock.now()
    assert instance.response_time_s == 0.02


def test_failing_until_something_works(instance: Instance) -> None:
    """One failure makes it failing, though not unhealthy; a passed check ends that."""
    assert not instance.failing
    instance.fault("reset")
    assert instance.failing
    assert instance.healthy
    instance.check_passed(0.01)
    assert not instance.failing


def test_own_prompts_are_never_external(instance: Instance) -> None:
    """Of ``queue_remaining`` only what is above our own queued prompts was put by others."""
    ours = [queued(instance) for _ in range(2)]
    Placement(instance)  # takes a place, but was not sent yet
    instance.prompts.observed(2)
    assert (instance.active_jobs, instance.prompts.external_jobs, instance.load) == (3, 0, 3)
    instance.prompts.observed(7)
    assert (instance.prompts.external_jobs, instance.load) == (5, 8)
    ours[0].in_queue = False  # its end was heard
    instance.prompts.observed(6)
    ours[0].release()
    assert (instance.prompts.external_jobs, instance.load) == (5, 7)


def test_fewer_than_ours_is_nobody_else(instance: Instance) -> None:
    """A status frame from before our prompt was accepted does not make the load negative."""
    queued(instance)
    instance.prompts.observed(0)
    assert (instance.prompts.external_jobs, instance.load) == (0, 1)


async def test_interruption_forgets_and_tells(instance: Instance, clock: ManualClock) -> None:
    """After an outage or a lost socket what was known of others' load is forgotten, and told."""
    told: list[Instance] = []
    instance.on_interruption.append(told.append)
    instance.prompts.observed(4)
    instance.socket_lost()
    assert instance.prompts.external_jobs == 0
    for _ in range(3):
        instance.check_failed("refused")
    await clock.advance(1)
    instance.breaker.begin_trial()
    instance.check_passed(0.01)
    assert told == [instance, instance]


async def test_changes_are_logged_once_with_the_reason(
    instance: Instance, clock: ManualClock
) -> None:
    """Failures are warnings up to the opening, recovery is an info line; the trials in between are
    for debugging."""
    lines: list[str] = []
    logger.add(lines.append, format="{level} {message}", level="INFO")
    for _ in range(5):
        instance.check_failed("refused")
    for _ in range(3):
        await clock.advance(1)
        instance.breaker.begin_trial()
        instance.check_failed("refused")
    await clock.advance(1)
    instance.breaker.begin_trial()
    instance.check_passed(0.01)
    assert [line.strip() for line in lines] == [
        "WARNING instance gpu1:8188: failure 1: refused",
        "WARNING instance gpu1:8188: failure 2: refused",
        "WARNING instance gpu1:8188: circuit closed -> open:"
        " 3 consecutive failures, the last: refused",
        "INFO instance gpu1:8188: circuit half_open -> closed: a check succeeded",
    ]
