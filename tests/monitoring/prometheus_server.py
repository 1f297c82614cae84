"""A real Prometheus (Debian's package) that runs the shipped configuration, and what it knows."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

CONFIG = Path(__file__).parents[2] / "config"
SCRAPE_S = 1
START_TIMEOUT_S = 60.0
PATIENCE_S = 60.0
Labels = tuple[str, ...]


def dashboard_queries(rate_interval: str) -> dict[str, list[str]]:
    """Title of a panel → its queries, as Grafana asks them with that ``$__rate_interval``."""
    dashboard = json.loads((CONFIG / "grafana" / "dashboard.json").read_text())
    return {
        panel["title"]: [
            target["expr"].replace("$__rate_interval", rate_interval) for target in panel["targets"]
        ]
        for panel in dashboard["panels"]
    }


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """Answers queries about the proxy that it scrapes each second."""

    url: str
    http: aiohttp.ClientSession

    async def _get(self, path: str, **params: str) -> Any:
        async with self.http.get(f"{self.url}/api/v1/{path}", params=params) as answer:
            body = await answer.json()
            assert body["status"] == "success", body
            return body["data"]

    async def series(self, query: str, at: float | None = None) -> list[Any]:
        """What it answers: a list of ``{"metric": labels, "value": …}``."""
        # Prometheus cuts the time off to milliseconds: a scrape at `at` is to be seen.
        time = {} if at is None else {"time": f"{at + 0.002:.3f}"}
        return list((await self._get("query", query=query, **time))["result"])

    async def values(
        self, query: str, *labels: str, at: float | None = None
    ) -> Mapping[Labels, float]:
        """The answer by the values of ``labels``; those that are nought are left out."""
        result: dict[Labels, float] = {}
        for one in await self.series(query, at):
            key = tuple(one["metric"].get(label, "") for label in labels)
            assert key not in result, f"{labels} do not tell apart: {query}"
            if (value := float(one["value"][1])) != 0:
                result[key] = value
        return result

    async def value(self, query: str, at: float | None = None) -> float:
        """The only value of the answer."""
        (one,) = await self.series(query, at)
        return float(one["value"][1])

    async def scrapes(self, window_s: float, at: float) -> list[float]:
        """When it scraped, within ``window_s`` before ``at``."""
        (one,) = await self.series(f'up{{job="comfy_proxy"}}[{window_s:g}s]', at)
        assert all(value == "1" for _, value in one["values"])
        return [float(time) for time, _ in one["values"]]

    async def scraped_after(self, time: float) -> float:
        """Wait for a scrape that begins after ``time``; when it did."""
        query = 'timestamp(up{job="comfy_proxy"})'

        async def found() -> float:
            answer = await self.series(query)
            last = max((float(one["value"][1]) for one in answer), default=0.0)
            return last if last > time else 0.0

        return await eventually(found)

    async def firing(self) -> set[Labels]:
        """Name and instance of the alerts that fire."""
        alerts = (await self._get("alerts"))["alerts"]
        return {
            (one["labels"]["alertname"], one["labels"].get("comfyui_instance", ""))
            for one in alerts
            if one["state"] == "firing"
        }


async def eventually(found: Callable[[], Awaitable[Any]]) -> Any:
    """The first true answer of ``found``."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if answer := await found():
                return answer
            await asyncio.sleep(0.1)


def configuration(folder: Path, target: str) -> Path:
    """The shipped files with another target, scraped each second; alerts fire after two."""
    text = (CONFIG / "prometheus" / "prometheus.yml").read_text()
    for old, new in (
        ('targets: ["127.0.0.1:3000"]', f'targets: ["{target}"]'),
        ("scrape_interval: 15s", f"scrape_interval: {SCRAPE_S}s"),
        ("evaluation_interval: 15s", f"evaluation_interval: {SCRAPE_S}s"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    folder.mkdir()
    path = folder / "prometheus.yml"
    path.write_text(text)
    alerts = (CONFIG / "prometheus" / "alerts.yml").read_text()
    (folder / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 2s", alerts))
    return path


@asynccontextmanager
async def scraping(target: str, folder: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes ``target`` while the block runs; its data is in ``folder``."""
    config = await asyncio.to_thread(configuration, folder, target)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as http:
            prometheus = Prometheus(url=f"http://{address}", http=http)
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await _ready(prometheus):
                    assert process.returncode is None, "Prometheus has ended"
                    await asyncio.sleep(0.1)
            await prometheus.scraped_after(0.0)
            yield prometheus
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _ready(prometheus: Prometheus) -> bool:
    with suppress(aiohttp.ClientConnectionError):
        async with prometheus.http.get(f"{prometheus.url}/-/ready") as answer:
            return answer.status == 200
    return False
