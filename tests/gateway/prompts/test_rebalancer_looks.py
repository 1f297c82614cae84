"""How often the rebalancer looks through all instances for a prompt to move."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from manual_clock import ManualClock, settle
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.prompts.rebalancer import INTERVAL_S, Rebalancer


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
        self.rebalancer._uneven = SimpleNamespace(pairs=self._pairs)  # type: ignore[assignment]

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
    begun = clock.monotonic()
    for _ in range(100):
        looks.rebalancer.consider()
        await settle(3)
    assert looks.at == [begun]
    await clock.advance(10 * INTERVAL_S)
    assert looks.at == pytest.approx([begun, begun + INTERVAL_S])


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
    await clock.advance(INTERVAL_S)
    other = Instance(id="2", url=URL("http://gpu2:8188"), clock=clock)
    looks.meanwhile = lambda: looks.rebalancer.consider(checked=other)
    looks.rebalancer.consider()
    await settle()
    assert len(looks.at) == 3
