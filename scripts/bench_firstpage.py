"""First load and reload of ComfyUI's own frontend in Chromium, direct and through the proxy.

    scripts/bench-firstpage [--rounds N] [--also NAME=URL] INSTANCE [INSTANCE]

INSTANCE is the URL of a real ComfyUI that runs (scripts/live-comfyui --keep starts two). A proxy is
started before them, and asked for nothing before the first round: that one pays for packing. Each
round measures every address with a browser of its own, whose profile is empty and whose network
has 20 Mbit/s and 50 ms a request. Counted is what came over the network, headers included; the
page can be used when its graph, its client id and its canvas are there. ``--also``: another
address, as of an nginx before a proxy (Chromium stores nothing from one whose certificate it does
not trust).
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chromium import Log, chromium
from selenium.common.exceptions import JavascriptException
from selenium.webdriver import Chrome

BYTES_A_SECOND = 20_000_000 / 8
LATENCY_MS = 50
QUIET_MS = 2500
PATIENCE_S = 150.0
READY = """
  return !!(window.app?.graph && (app.api?.clientId || app.api?.initialClientId)
            && document.querySelector('canvas'))"""
QUIET = """
  const entries = performance.getEntriesByType('resource');
  return performance.now() - Math.max(0, ...entries.map(one => one.responseEnd || one.startTime))"""


@dataclass(frozen=True)
class Load:
    """One load of the page."""

    seconds: float
    megabytes: float
    requests: int


def measured(driver: Chrome, log: Log, go: Callable[[], None]) -> Load:
    """``go`` loads the page. Raises TimeoutError if it cannot be used within PATIENCE_S."""
    log.clear()
    begun = time.monotonic()
    go()
    _until(lambda: driver.execute_script(READY))
    seconds = time.monotonic() - begun
    _until(lambda: driver.execute_script(QUIET) > QUIET_MS)
    inside = {
        one["requestId"]
        for one in log.of_kind("Network.responseReceived")
        if one["response"]["url"].startswith("data:")
    }
    ended = [
        one for one in log.of_kind("Network.loadingFinished") if one["requestId"] not in inside
    ]
    return Load(seconds, sum(one["encodedDataLength"] for one in ended) / 1e6, len(ended))


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except JavascriptException:
            pass  # the page is not that far
        time.sleep(0.05)
    raise TimeoutError("the page cannot be used")


def loads(url: str) -> tuple[Load, Load]:
    """The first load and a reload, in a new browser."""
    with chromium() as driver:
        driver.set_page_load_timeout(PATIENCE_S)
        log = Log(driver)
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {
                "offline": False,
                "latency": LATENCY_MS,
                "downloadThroughput": BYTES_A_SECOND,
                "uploadThroughput": BYTES_A_SECOND,
            },
        )
        first = measured(driver, log, lambda: driver.get(f"{url}/"))
        return first, measured(driver, log, driver.refresh)


@contextmanager
def proxy(instances: Sequence[str]) -> Iterator[str]:
    """A proxy before them, which is ready; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hosts = {f"COMFYUI_HOST_{number}": url for number, url in enumerate(instances, start=1)}
    with tempfile.TemporaryDirectory() as logs:
        own = {"PORT": str(port), "LOG_DIRECTORY": logs, "HEALTH_CHECK_TIMEOUT": "2000"}
        process = subprocess.Popen(
            [sys.executable, "-m", "comfy_proxy", "serve"],
            env=os.environ | hosts | own,
            stderr=(Path(logs) / "console").open("wb"),
        )
        try:
            _until(lambda: _is_ready(f"http://127.0.0.1:{port}"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def report(found: dict[str, list[tuple[Load, Load]]]) -> None:
    """Medians of all rounds, by those of the direct one."""
    base = found["direct"]
    for name, rounds in found.items():
        for place, what in enumerate(("first load", "reload")):
            told = [f"{name:8} {what:10}"]
            for field, unit in (("megabytes", "MB"), ("seconds", "s")):
                own = statistics.median(getattr(one[place], field) for one in rounds)
                direct = statistics.median(getattr(one[place], field) for one in base)
                first = statistics.median(getattr(one[0], field) for one in base)
                parts = f"{own / direct:.3f}, of the first load {own / first:.3f}"
                told.append(f"{own:6.2f} {unit} ({parts})")
            print("  ".join(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("instances", nargs="+", metavar="INSTANCE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=URL")
    options = parser.parse_args()
    with proxy(options.instances) as url:
        addresses = {"direct": options.instances[0].rstrip("/"), "proxy": url}
        addresses |= dict(one.split("=", 1) for one in options.also)
        found: dict[str, list[tuple[Load, Load]]] = {name: [] for name in addresses}
        for number in range(options.rounds):
            for name, address in addresses.items():
                found[name].append(loads(address))
                print(f"round {number + 1}, {name}: {found[name][-1]}", file=sys.stderr)
        report(found)


if __name__ == "__main__":
    main()
