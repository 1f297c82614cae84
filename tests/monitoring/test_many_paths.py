"""Whatever clients ask for, what is measured does not grow."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_server import Prometheus, scraping
from serving import Served, serving

from comfy_proxy.embedded.process import WorkerProcess

REQUESTS = 10_000
AT_ONCE = 20
EXOTIC = ("PROPFIND", "MKCOL", "PURGE", "REPORT", "LINK", "SEARCH", "M-SEARCH", "NOTIFY", "MERGE")
"""Methods that aiohttp's parser knows; others are refused before they are ours."""


@pytest.fixture
async def served(pair: tuple[WorkerProcess, ...], tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(*(one.host for one in pair), logs=tmp_path / "logs") as proxy:
        yield proxy


@pytest.fixture
async def prometheus(served: Served, tmp_path: Path) -> AsyncIterator[Prometheus]:
    async with scraping(f"127.0.0.1:{served.port}", tmp_path / "prometheus") as running:
        yield running


async def ask(served: Served, number: int) -> None:
    """A path and a query of its own; every third by a method that is seldom seen."""
    method = EXOTIC[number % 9] if number % 3 == 0 else ("GET", "POST")[number % 2]
    place = ("/nowhere", "/api/jobs", "/view", "/api/workflows")[number % 4]
    url = f"{served.url}{place}/{number}-{'x' * (number % 50)}/status?filename={number}"
    async with served.http.request(method, url, headers={"User-Agent": f"a/{number}"}) as answer:
        await answer.read()
        assert answer.status < 500 or answer.status == 501, (method, url, answer.status)


async def ask_all(served: Served, numbers: range) -> None:
    left = iter(numbers)

    async def one_after_the_other() -> None:
        for number in left:
            await ask(served, number)

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


async def series(prometheus: Prometheus) -> int:
    """How many it has of the proxy."""
    at = await prometheus.scraped_after(time.time())
    return int(await prometheus.value('scrape_samples_scraped{job="comfy_proxy"}', at))


async def test_ten_thousand_paths_and_methods_make_no_series(
    served: Served, prometheus: Prometheus
) -> None:
    """No label holds what a client chose; each request is counted."""
    await ask_all(served, range(1000))
    before = await series(prometheus)
    await ask_all(served, range(1000, 1000 + REQUESTS))
    assert await series(prometheus) == before
    at = await prometheus.scraped_after(time.time())
    told = await prometheus.values(
        'sum by (method, status) (comfy_proxy_http_requests_total{status!="200"})',
        *("method", "status"),
        at=at,
    )
    truth: Counter[tuple[str, str]] = Counter()
    for (method, status), count in served.answers.items():
        truth["OTHER" if method in EXOTIC else method, status] += count
    assert told == {key: count for key, count in truth.items() if key[1] != "200"}
    assert sum(told.values()) >= 1000 + REQUESTS
