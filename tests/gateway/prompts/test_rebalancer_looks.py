"""How often the rebalancer looks through all instances for a prompt to move."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from manual_clock import ManualClock, settle
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.soon import PAUSE_TIMES, Pace
from comfy_proxy.gateway.prompts.rebalancer import Rebalancer
from comfy_proxy.keys import CLUSTER, GATEWAY


class Looks:
    """A rebalancer that finds nothing to move, and when it looked."""

    def __init__(self, clock: ManualClock) -> None:
        self.at: list[float] = []
        self.instance = Instance(id="1", url=URL("http://gpu1:8188"), clock=clock)
        cluster: Any = SimpleNamespace(clock=clock, instances=[self.instance], planner=None)
        ledger: Any = SimpleNamespace(observers=[])
        none: Any = None
        self.rebalancer = Rebalancer(cluster, ledger, none, none, transfer=none, spool=none)
        self.meanwhile = lambda: None
        self._clock = clock
        self._cpu_s = 0.0
        self.takes(0.0)
        self.rebalancer._uneven = SimpleNamespace(pairs=self._pairs)  # type: ignore[assignment]
        self.rebalancer._late_runs._instances = lambda: ()  # nothing waits anywhere

    def takes(self, cpu_s: float) -> float:
        """A look takes so many CPU seconds from now on."""

        def spent() -> float:
            self._cpu_s += cpu_s
            return self._cpu_s

        self.rebalancer._pace = Pace(self._clock, spent)
        return cpu_s

    def _pairs(self) -> Iterator[tuple[Instance, Instance]]:
        self.at.append(self._clock.monotonic())
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return iter(())


@pytest.fixture
def looks(clock: ManualClock) -> Looks:
    return Looks(clock)


async def test_a_burst_of_loads_is_looked_at_once_at_its_beginning_and_once_after_it(
    looks: Looks, clock: ManualClock
) -> None:
    begun, pause_s = clock.monotonic(), PAUSE_TIMES * looks.takes(0.01)
    for _ in range(100):
        looks.rebalancer.consider()
        await settle(3)
    assert looks.at == [begun]
    await clock.advance(10 * pause_s)
    assert looks.at == pytest.approx([begun, begun + pause_s])


async def test_looks_that_cost_next_to_nothing_follow_at_once(looks: Looks) -> None:
    """With a few instances nobody waits for a pause."""
    looks.takes(0.0005)
    for count in range(1, 4):
        looks.rebalancer.consider()
        await settle()
        assert len(looks.at) == count


async def test_what_comes_while_it_looks_has_it_look_once_more(looks: Looks) -> None:
    looks.meanwhile = looks.rebalancer.consider
    looks.rebalancer.consider()
    await settle()
    assert len(looks.at) == 2


async def test_a_check_that_passes_while_it_looks_is_news_only_if_it_did_not_count_on_that(
    looks: Looks, clock: ManualClock
) -> None:
    """Else the checks that it makes itself would have it look for ever."""
    looks.meanwhile = lambda: looks.rebalancer.consider(checked=looks.instance)
    looks.rebalancer.consider()
    await settle()
    assert len(looks.at) == 1
    other = Instance(id="2", url=URL("http://gpu2:8188"), clock=clock)
    looks.meanwhile = lambda: looks.rebalancer.consider(checked=other)
    looks.rebalancer.consider()
    await settle()
    assert len(looks.at) == 3


async def test_it_looks_when_a_job_has_left_and_not_for_the_places_that_it_takes_itself(
    proxy: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ``status`` that tells of the job's end may come before its place is given back."""
    woken: list[bool] = []
    worker = proxy.app[GATEWAY].rebalancer._worker
    monkeypatch.setattr(worker, "wake", lambda: woken.append(True))
    scheduler, (one, _) = proxy.app[CLUSTER].scheduler, proxy.app[CLUSTER].instances
    scheduler.enter(one).release()
    assert not woken
    scheduler._placement(one, lambda instance: True).release()
    assert woken
