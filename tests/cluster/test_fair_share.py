"""cluster/fair_share.py: clients get places one after the other, however much each has waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from manual_clock import settle

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.fair_share import FairShare
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.waiter import Waiter


class Jobs:
    """Jobs of several clients at one instance with two places; ``got`` are those that have one."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.got: list[str] = []
        self._places: dict[str, Placement] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, float] = {}

    async def come(self, *names: str) -> None:
        """``a1`` is a job of the client ``a``."""
        for name in names:
            shares = self.cluster.scheduler.door.shares
            turn = self._turns[name] = shares.begin(name[0])
            waiter = Waiter(rank=self.cluster.clock.monotonic() + len(self._tasks), turn=turn)
            self._tasks[name] = asyncio.create_task(self._job(name, waiter))
        await settle()

    async def _job(self, name: str, waiter: Waiter) -> None:
        self._places[name] = await self.cluster.scheduler.place_of(waiter, 0.0)
        self.got.append(name)

    async def end(self, *names: str) -> None:
        for name in names:
            self.cluster.scheduler.door.shares.end(name[0], self._turns[name])
            self._places.pop(name).release()
            await settle()

    async def leave(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
            self.cluster.scheduler.door.shares.end(name[0], self._turns[name])
        await settle()

    async def serve(self, count: int) -> list[str]:
        """The next so many that get a place as those that have one end."""
        begun = len(self.got)
        while len(self.got) < begun + count:
            await self.end(next(iter(self._places)))
        return self.got[begun:]


@pytest.fixture
def jobs(make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Jobs:
    async def check(self: ComfyUIClient, timeout_s: float) -> None:
        """Every instance answers."""

    monkeypatch.setattr(ComfyUIClient, "check", check)
    return Jobs(make_cluster("gpu1:1", max_connections_per_instance=2))


async def test_a_client_with_few_jobs_does_not_wait_for_one_with_many(jobs: Jobs) -> None:
    """It comes next; what the other has been given already counts, so its first ones go first."""
    await jobs.come(*(f"a{n}" for n in range(50)))
    await jobs.come("b0", "b1", "b2", "b3")
    assert jobs.got == ["a0", "a1"]
    assert await jobs.serve(8) == ["b0", "b1", "a2", "b2", "a3", "b3", "a4", "a5"]


async def test_three_clients_take_turns(jobs: Jobs) -> None:
    await jobs.come("a0", "a1", "a2", "a3", "b0", "b1", "b2", "c0", "c1")
    assert jobs.got == ["a0", "a1"]
    assert await jobs.serve(7) == ["b0", "c0", "b1", "c1", "a2", "b2", "a3"]


async def test_alone_each_job_comes_in_its_order(jobs: Jobs) -> None:
    names = [f"a{n}" for n in range(10)]
    await jobs.come(*names)
    await jobs.serve(8)
    assert jobs.got == names


async def test_who_comes_back_has_saved_nothing_up(jobs: Jobs) -> None:
    """A client that was away for long gets its turns from now on, not all that it has missed."""
    await jobs.come("b0")
    await jobs.end("b0")
    await jobs.come(*(f"a{n}" for n in range(30)))
    await jobs.serve(10)
    await jobs.come(*(f"b{n}" for n in range(1, 9)))
    served = await jobs.serve(10)
    assert 4 <= sum(name[0] == "b" for name in served) <= 6


async def test_what_was_cancelled_counts_nothing(jobs: Jobs) -> None:
    """A client that has taken its jobs back is not sent behind all others for them."""
    await jobs.come(*(f"a{n}" for n in range(20)), *(f"b{n}" for n in range(20)))
    await jobs.leave(*(f"b{n}" for n in range(1, 20)))
    await jobs.serve(2)
    await jobs.come("B")  # another client, for whom all is as if it had never been
    await jobs.come("b20")
    served = await jobs.serve(4)
    assert "b20" in served


def test_one_that_runs_for_an_hour_does_not_count_for_ever() -> None:
    """A newcomer is before what was served lately, by as much as is served at once."""
    shares = FairShare(lambda: [1.0, 100.0])
    for _ in range(101):
        shares.served(shares.begin("a"))
    assert shares.begin("b") == 99.0
