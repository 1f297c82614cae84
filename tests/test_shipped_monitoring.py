"""What is shipped for Prometheus and Grafana names metrics and labels that exist."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient

from comfy_proxy.keys import METRICS

CONFIG = Path(__file__).parents[1] / "config"
PROMETHEUS_ACCEPT = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
_NAME = re.compile(r"\bcomfy_proxy_[a-z0-9_]+")
_GROUPING = re.compile(r"\b(?:by|without) \(([^)]*)\)")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"")
_LEGEND = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")
FROM_PROMETHEUS = {"job", "instance", "le"}


def expressions() -> Iterator[str]:
    """Each query that is shipped, with the legend or the summary that goes with it."""
    dashboard = json.loads((CONFIG / "grafana" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"{target['expr']} {target['legendFormat']}"
    yield from (CONFIG / "prometheus" / "alerts.yml").read_text().split("- alert:")[1:]


async def exposition(proxy: TestClient) -> str:
    async with proxy.get("/metrics", headers={"Accept": PROMETHEUS_ACCEPT}) as answer:
        assert answer.status == 200
        return await answer.text()


async def test_each_metric_exists(proxy: TestClient) -> None:
    """Also on a proxy that has done nothing yet: a panel without a metric would stay empty."""
    names = set(re.findall(r"^# TYPE (\S+)", await exposition(proxy), re.MULTILINE))
    for text in expressions():
        for name in _NAME.findall(text):
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            assert {name, base} & names, name


async def test_each_label_exists(proxy: TestClient) -> None:
    """Those of groupings, matchers and legends: each is one of a metric in the same expression."""
    labels = {f.name: set(f._labelnames) for f in proxy.app[METRICS].exposition.collect()}
    for text in expressions():
        bases = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in _NAME.findall(text)}
        known = set().union(*(labels[base] for base in bases))
        used = [*_MATCHER.findall(text), *_LEGEND.findall(text)]
        for grouping in _GROUPING.findall(text):
            used += [label.strip() for label in grouping.split(",")]
        assert set(used) <= known | FROM_PROMETHEUS, text


async def test_prometheus_accepts_it(proxy: TestClient) -> None:
    """Rules and exposition pass promtool (Debian's package ``prometheus``), where it is there."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    rules = str(CONFIG / "prometheus" / "prometheus.yml")
    for command, text in (
        (["check", "config", rules], ""),
        (["check", "metrics"], await exposition(proxy)),
    ):
        process = await asyncio.create_subprocess_exec(
            promtool, *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        said, _ = await process.communicate(text.encode())
        assert process.returncode == 0, said.decode()
