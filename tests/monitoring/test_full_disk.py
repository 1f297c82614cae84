"""Disks that are full or read-only, real ones: nobody waits for the log, and it comes back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from serving import Served, serving

from comfy_proxy.embedded.process import WorkerProcess

Pair = tuple[WorkerProcess, WorkerProcess]
Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """``mount("size=128k")``: where such a tmpfs is; only root can, and not in every container."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    mounted: list[Path] = []

    def make(options: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"this container mounts nothing: {done.stderr}")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


async def ask(served: Served, count: int) -> None:
    for _ in range(count):
        await served.get("/system_stats")


async def lost(served: Served, at_least: int) -> int:
    """How many lines were lost, as soon as that are so many."""
    while (count := (await served.get("/metrics"))["logs"]["lines_dropped"]) < at_least:
        pass
    return int(count)


async def test_a_full_disk_stops_nobody(pair: Pair, mount: Mount) -> None:
    """Requests are answered, lost lines counted; lines are written again when there is room."""
    disk = mount("size=128k")
    async with serving(*(one.host for one in pair), logs=disk / "logs") as served:
        await ask(served, 5)
        await served.logged(lambda line: line.get("path") == "/system_stats")
        fill(disk / "other")
        await ask(served, 50)
        assert await lost(served, 20) > 0
        (disk / "other").unlink()
        written = served.lines()
        files = open_files(served.process.pid)
        while len(whole_lines(served)) <= len(written):  # tried again after ten seconds
            await ask(served, 1)
            await asyncio.sleep(0.1)
        assert open_files(served.process.pid) <= files + 1
        assert await served.end() == 0
    assert served.said.count("No space left on device") == 1
    assert len(whole_lines(served)) >= len(served.text().splitlines()) - 1


async def test_a_read_only_disk_stops_nobody(pair: Pair, mount: Mount) -> None:
    """From the start on: told once, lines on the console only, none waits."""
    disk = mount("size=128k,ro")
    async with serving(*(one.host for one in pair), logs=disk / "logs") as served:
        await ask(served, 20)
        assert await lost(served, 20) >= 20
        assert await served.end() == 0
    assert served.said.count("Read-only file system") == 1
    assert served.said.count("GET /system_stats 200") == 20


def fill(path: Path) -> None:
    """To the last byte."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def whole_lines(served: Served) -> list[object]:
    """What is JSON; the line that met the end of the disk may be torn."""
    found = []
    for line in served.text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            assert not line.endswith("}")
    return found


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
