"""One run of a piece of work at a time for each instance: when it begins, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.roster import Roster


class Work:
    """Notes each run, which goes on until ``go_on`` is set; ``fault`` is raised by it then."""

    def __init__(self) -> None:
        self.began: list[Instance] = []
        self.cancelled: list[Instance] = []
        self.go_on = asyncio.Event()
        self.fault: Exception | None = None

    async def __call__(self, instance: Instance) -> None:
        self.began.append(instance)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(instance)
            raise
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def roster() -> Roster:
    urls = [URL(f"http://gpu{number}:8188") for number in (1, 2)]
    return Roster(Instance(id=url.host[-1], url=url, clock=ManualClock()) for url in urls)


async def turns() -> None:
    """Whatever can go on does."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_run_at_a_time_for_each_instance(roster: Roster) -> None:
    """A second one begins when the first is over."""
    work, (one, two) = Work(), roster
    tasks = InstanceTasks(roster, work, "work at")
    for instance in (one, one, two):
        tasks.begin(instance)
    await turns()
    tasks.begin(one)
    assert (work.began, tasks.busy) == ([one, two], True)
    work.go_on.set()
    await tasks.over(one)
    await tasks.over(two)
    assert (work.began, tasks.busy) == ([one, two], False)
    tasks.begin(one)
    await tasks.over(one)
    assert work.began == [one, two, one]


@pytest.mark.parametrize("fault", [None, pytest.param(OSError(), marks=pytest.mark.logs_faults)])
async def test_news_that_comes_while_it_runs_has_it_run_once_more(
    roster: Roster, fault: Exception | None
) -> None:
    """However much came, and though the run before it failed."""
    work, (one, _) = Work(), roster
    work.fault = fault
    tasks = InstanceTasks(roster, work, "work at")
    tasks.wake(one)
    await turns()
    for _ in range(3):
        tasks.wake(one)
    work.go_on.set()
    await tasks.over(one)
    assert work.began == [one, one]


def _leaves(roster: Roster, tasks: InstanceTasks) -> None:
    roster.remove(roster[0])


def _is_cancelled(roster: Roster, tasks: InstanceTasks) -> None:
    tasks.cancel(roster[0])


@pytest.mark.parametrize(("ending", "runs_again"), [(_leaves, 0), (_is_cancelled, 1)])
async def test_a_run_ends_when_it_is_cancelled_and_with_its_instance(
    roster: Roster, ending: Callable[[Roster, InstanceTasks], None], runs_again: int
) -> None:
    """That of the other one goes on. None begins for an instance that has left."""
    work, (one, two) = Work(), roster
    tasks = InstanceTasks(roster, work, "work at")
    tasks.begin(one)
    tasks.begin(two)
    await turns()
    ending(roster, tasks)
    tasks.begin(one)
    await turns()
    assert work.cancelled == [one]
    assert work.began == [one, two, *[one] * runs_again]
    await tasks.close()


async def test_nothing_begins_after_the_end(roster: Roster) -> None:
    """And what was under way has ended by then."""
    work, (one, two) = Work(), roster
    tasks = InstanceTasks(roster, work, "work at")
    tasks.begin(one)
    await turns()
    await tasks.close()
    tasks.wake(two)
    await turns()
    assert (work.began, work.cancelled, tasks.busy) == ([one], [one], False)
