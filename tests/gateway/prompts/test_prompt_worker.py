"""Work that is done once more for news that comes while it is done, and never twice at a time."""

from __future__ import annotations

import asyncio

import pytest

from comfy_proxy.gateway.prompts.worker import Worker


async def idle(worker: Worker) -> None:
    """Return when nothing is under way."""
    if worker._task is not None:
        await asyncio.wait([worker._task])


async def test_news_that_comes_meanwhile_is_worked_on_afterwards() -> None:
    at_work, most, done = 0, 0, 0

    async def work() -> None:
        nonlocal at_work, most, done
        at_work += 1
        most = max(most, at_work)
        if done == 0:
            worker.wake()
        await asyncio.sleep(0)
        at_work, done = at_work - 1, done + 1

    worker = Worker(work, "work")
    worker.wake()
    worker.wake()
    await idle(worker)
    assert (most, done) == (1, 2)


async def test_it_comes_to_its_end_and_begins_nothing_after_it_was_closed() -> None:
    begun, go, ended = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        begun.set()
        await go.wait()
        ended.append(True)

    worker = Worker(work, "work")
    worker.wake()
    await begun.wait()
    closing = asyncio.create_task(worker.close())
    await asyncio.sleep(0)
    worker.wake()
    go.set()
    await closing
    assert ended == [True]


@pytest.mark.logs_faults
async def test_a_fault_does_not_end_it_for_good() -> None:
    tried = 0

    async def work() -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise ValueError("a fault of ours")

    worker = Worker(work, "work")
    for expected in (1, 2):
        worker.wake()
        await idle(worker)
        assert tried == expected
