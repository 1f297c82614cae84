"""What is kept of the frontend's text is bounded, and so is what is read at a time."""

from __future__ import annotations

import asyncio

from comfy_proxy.gateway.frontend import kept as module
from comfy_proxy.gateway.frontend.budget import Budget
from comfy_proxy.gateway.frontend.kept import Entry, Kept, Key


def entry(target: str, version: str = "1", size: int = 1000, coding: str = "gzip") -> Entry:
    return Entry(
        key=Key(target, coding, version),
        body=bytes(size),
        size=4 * size,
        headers={},
        tagged=True,
        last_modified=None,
    )


def test_what_was_used_longest_ago_goes_first() -> None:
    """The sum of all never exceeds the bound."""
    cost = entry("/a").cost
    kept = Kept(3 * cost)
    for name in "/a", "/b", "/c":
        kept.put(entry(name))
    assert kept.get(Key("/a", "gzip", "1")) is not None
    kept.put(entry("/d"))
    assert kept.bytes == 3 * cost
    assert kept.get(Key("/b", "gzip", "1")) is None
    assert kept.versions("/b", "gzip") == []
    assert kept.get(Key("/a", "gzip", "1")) is not None


def test_a_body_that_is_too_large_is_not_kept() -> None:
    """It would drive out a whole page."""
    kept = Kept()
    kept.put(entry("/a", size=module.MAX_ENTRY_BYTES))
    assert (len(kept), kept.bytes) == (0, 0)
    small = Kept(2000)
    small.put(entry("/a", size=2000))
    assert (len(small), small.bytes) == (0, 0)


def test_clients_that_choose_paths_do_not_make_it_grow() -> None:
    """However many queries somebody invents."""
    kept = Kept(100_000)
    for number in range(1000):
        kept.put(entry(f"/scripts/app.js?{number}"))
    assert kept.bytes <= 100_000
    assert len(kept._versions) == len(kept)


def test_codings_and_versions_are_apart() -> None:
    kept = Kept()
    for version, coding in (("1", "gzip"), ("1", "br"), ("2", "br"), ("2", "br")):
        kept.put(entry("/a", version, coding=coding))
    assert len(kept) == 3
    assert [one.key.version for one in kept.versions("/a", "br")] == ["1", "2"]
    kept.put(entry("/a", "3", coding="br"))
    assert [one.key.version for one in kept.versions("/a", "br")] == ["2", "3"]
    assert kept.bytes == sum(one.cost for one in kept._entries.values())


async def test_bodies_wait_until_there_is_room() -> None:
    """Beyond the budget one waits until another is done; a huge one is let in alone."""
    budget = Budget(100)
    order: list[str] = []
    done = asyncio.Event()

    async def use(name: str, size: int) -> None:
        async with budget.take(size):
            order.append(name)
            await done.wait()

    tasks = [asyncio.create_task(use(name, size)) for name, size in (("a", 60), ("b", 40))]
    tasks.append(asyncio.create_task(use("huge", 500)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert (order, budget.taken) == (["a", "b"], 100)
    tasks[0].cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert budget.taken == 40
    done.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "b", "huge"]
    assert budget.taken == 0
