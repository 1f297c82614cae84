"""What sockets, broken connections and signs of life tell of an instance."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from cluster_harness import make_instance
from manual_clock import ManualClock

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import (
    ConnectionBrokenError,
    InstanceRefusedError,
    InstanceUnreachableError,
)
from comfy_proxy.metrics.records import Attempt, Verdict


@pytest.fixture
def instance(clock: ManualClock) -> Instance:
    return make_instance(clock)


async def socket(instance: Instance, *, works: bool) -> None:
    """One handshake in the background."""
    with suppress(InstanceUnreachableError), instance.attempt("ws", background=True):
        if not works:
            raise InstanceUnreachableError("refused")


async def test_sockets_in_the_background_are_no_strikes(instance: Instance) -> None:
    """The first that fails asks for a check and the first that works again for another one."""
    asked: list[Instance] = []
    told: list[Attempt] = []
    instance.on_doubt.append(asked.append)
    instance.observers.append(told.append)
    counts = []
    for works in (True, False, False, False, True, True, False, False):
        await socket(instance, works=works)
        counts.append(len(asked))
    assert counts == [0, 1, 1, 1, 2, 2, 3, 3]
    assert [one.verdict for one in told[:2]] == [Verdict.OK, Verdict.INSTANCE_FAULT]
    assert instance.breaker.consecutive_failures == 0


async def test_a_failed_socket_tells_nothing_new_of_an_open_circuit(instance: Instance) -> None:
    """The outage is known."""
    asked: list[Instance] = []
    instance.on_doubt.append(asked.append)
    for _ in range(3):
        instance.check_failed("refused")
    await socket(instance, works=False)
    assert asked == []


async def test_a_socket_that_opens_questions_an_open_circuit(instance: Instance) -> None:
    """The instance is back, though no socket was tried while it was away."""
    asked: list[Instance] = []
    instance.on_doubt.append(asked.append)
    for _ in range(3):
        instance.fault("refused")
    await socket(instance, works=True)
    assert asked == [instance]
    assert not instance.healthy
    assert instance.breaker.begin_trial()


async def broken(instance: Instance) -> None:
    """A request whose connection ends before its answer."""
    with suppress(ConnectionBrokenError), instance.attempt("view"):
        raise ConnectionBrokenError("broke off")


async def test_connections_that_break_together_are_one_strike(
    instance: Instance, clock: ManualClock
) -> None:
    """A network that drops all of them has said one thing; a second later it says another."""
    for strikes in (1, 2):
        for _ in range(5):
            await broken(instance)
            await clock.advance(0.1)
        assert instance.breaker.consecutive_failures == strikes
        await clock.advance(0.5)
    await broken(instance)
    assert not instance.healthy


async def test_a_refused_dial_counts_whatever_broke_before(instance: Instance) -> None:
    """Nobody listens there: that is known of each, and no matter of one moment."""
    await broken(instance)
    for _ in range(2):
        with suppress(InstanceUnreachableError), instance.attempt("view"):
            raise InstanceUnreachableError("refused")
    assert not instance.healthy


@pytest.mark.parametrize("sign", ["frame", "answer", "refusal"])
async def test_one_that_was_given_up_and_speaks_is_checked(
    instance: Instance, clock: ManualClock, sign: str
) -> None:
    """At once, before its cooldown is over, and once a second while it goes on speaking."""
    asked: list[float] = []
    instance.on_doubt.append(lambda one: asked.append(clock.monotonic()))

    async def speak() -> None:
        if sign == "frame":
            instance.frame_seen()
            return
        with suppress(InstanceRefusedError), instance.attempt("view"):
            if sign == "refusal":
                raise InstanceRefusedError("500")

    await speak()
    assert asked == []
    await clock.advance(3)  # what it said does not protect it any more
    for _ in range(3):
        instance.fault("refused")
    for _ in range(20):
        await speak()
        await clock.advance(0.1)
    assert [round(at - asked[0], 1) for at in asked] == [0.0, 1.0]
    assert instance.breaker.begin_trial()
    instance.check_passed(0.01)
    await clock.advance(2)
    await speak()
    assert len(asked) == 2


async def test_a_cancelled_socket_tells_nothing(instance: Instance) -> None:
    """Whoever wanted it has gone."""
    asked: list[Instance] = []
    instance.on_doubt.append(asked.append)
    with pytest.raises(asyncio.CancelledError), instance.attempt("ws", background=True):
        raise asyncio.CancelledError
    assert asked == []
