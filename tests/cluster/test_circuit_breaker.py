"""The circuit breaker's three states, on a clock that stands still."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock

from comfy_proxy.cluster.circuit_breaker import CircuitBreaker, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Told(list[tuple[CircuitState, CircuitState, str]]):
    """Every change that was told, in order."""

    def change(self, old: CircuitState, new: CircuitState, reason: str) -> None:
        self.append((old, new, reason))

    @property
    def steps(self) -> list[tuple[CircuitState, CircuitState]]:
        return [(old, new) for old, new, _ in self]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def breaker(clock: ManualClock, told: Told) -> CircuitBreaker:
    return CircuitBreaker(clock=clock, failure_threshold=3, cooldown_s=10, on_change=told.change)


def open_it(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        breaker.record_failure("refused")


async def test_full_cycle(breaker: CircuitBreaker, told: Told, clock: ManualClock) -> None:
    """Closed, open after three failures, half-open after the cooldown, closed by its trial."""
    breaker.record_failure("refused")
    breaker.record_failure("refused")
    assert breaker.closed
    breaker.record_failure("reset")
    assert breaker.state is OPEN
    assert not breaker.begin_trial()
    await clock.advance(9.9)
    assert not breaker.begin_trial()
    await clock.advance(0.1)
    assert breaker.begin_trial()
    assert breaker.state is HALF_OPEN
    breaker.record_success(trial=True)
    assert breaker.closed
    assert breaker.consecutive_failures == 0
    assert told == [
        (CLOSED, OPEN, "3 consecutive failures, the last: reset"),
        (OPEN, HALF_OPEN, "trying again"),
        (HALF_OPEN, CLOSED, "a check succeeded"),
    ]


async def test_failed_trial_opens_again_for_a_whole_cooldown(
    breaker: CircuitBreaker, told: Told, clock: ManualClock
) -> None:
    """One failure is enough while half-open, and the cooldown starts anew."""
    open_it(breaker)
    await clock.advance(10)
    assert breaker.begin_trial()
    breaker.record_failure("still refused", trial=True)
    assert told[-1] == (HALF_OPEN, OPEN, "still refused")
    await clock.advance(9.9)
    assert not breaker.begin_trial()
    await clock.advance(0.2)
    assert breaker.begin_trial()


def test_only_consecutive_failures_count(breaker: CircuitBreaker, told: Told) -> None:
    """Fail, pass, fail, pass … never trips a threshold of three."""
    for _ in range(5):
        breaker.record_failure("refused")
        breaker.record_failure("refused")
        breaker.record_success()
    assert breaker.closed
    assert told == []


async def test_one_trial_at_a_time(breaker: CircuitBreaker, clock: ManualClock) -> None:
    """While a trial is under way nobody else may begin one."""
    open_it(breaker)
    await clock.advance(10)
    assert breaker.begin_trial()
    assert not breaker.begin_trial()


def test_late_success_while_open_is_ignored(breaker: CircuitBreaker, told: Told) -> None:
    """A request that began before the circuit opened does not close it."""
    open_it(breaker)
    breaker.record_success()
    assert breaker.state is OPEN
    assert breaker.consecutive_failures == 3
    assert told.steps == [(CLOSED, OPEN)]


async def test_only_the_trial_decides_while_half_open(
    breaker: CircuitBreaker, told: Told, clock: ManualClock
) -> None:
    """Late results of older requests neither close a half-open circuit nor open it again."""
    open_it(breaker)
    await clock.advance(10)
    breaker.begin_trial()
    breaker.record_success()
    breaker.record_failure("an old download broke off")
    assert breaker.state is HALF_OPEN
    breaker.record_success(trial=True)
    assert told.steps == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


def test_opening_is_told_once(breaker: CircuitBreaker, told: Told) -> None:
    """Failures beyond the threshold are no news."""
    open_it(breaker)
    open_it(breaker)
    assert told.steps == [(CLOSED, OPEN)]


async def test_abandoned_trial_counts_no_failure(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    """A trial without a verdict leaves the circuit open and the count as it was."""
    open_it(breaker)
    await clock.advance(10)
    breaker.begin_trial()
    breaker.abandon_trial()
    assert breaker.state is OPEN
    assert breaker.consecutive_failures == 3
    await clock.advance(10)
    assert breaker.begin_trial()


def test_abandoning_without_a_trial_does_nothing(breaker: CircuitBreaker, told: Told) -> None:
    """A closed circuit has no trial to abandon."""
    breaker.abandon_trial()
    assert breaker.closed
    assert told == []


def test_a_sign_of_life_ends_the_cooldown(breaker: CircuitBreaker, told: Told) -> None:
    """Of that one opening; the circuit itself stays as it is until a trial has succeeded."""
    open_it(breaker)
    breaker.sign_of_life()
    assert breaker.state is OPEN
    assert breaker.begin_trial()
    breaker.record_failure("not yet", trial=True)
    assert not breaker.begin_trial()


def test_repr_is_a_line_of_state(breaker: CircuitBreaker) -> None:
    """What a debugger shows is the state and the count."""
    open_it(breaker)
    assert repr(breaker) == "<CircuitBreaker open failures=3>"


async def test_one_final_failure_opens_it(breaker: CircuitBreaker, told: Told) -> None:
    """What proves that nothing will ever work there needs no row of failures."""
    breaker.record_failure("it is the proxy itself", final=True)
    assert told == [(CLOSED, OPEN, "it is the proxy itself")]


async def test_one_that_begins_open_is_closed_by_its_first_check(
    breaker: CircuitBreaker, told: Told
) -> None:
    """That check is not put off by a cooldown."""
    breaker.begin_open()
    assert not breaker.closed
    assert told == []
    assert breaker.begin_trial()
    breaker.record_success(trial=True)
    assert breaker.closed
