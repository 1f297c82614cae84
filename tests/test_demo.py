"""``comfy-proxy demo`` as a process of its own: what it makes, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from child_signals import listen_to_all
from kept_ports import kept_port

pytestmark = pytest.mark.long

PATIENCE_S = 60.0
"""Before what does not come true fails the test."""
DASHBOARD = re.compile(r"dashboard: (http://127\.0\.0\.1:\d+/dashboard)")
Process = asyncio.subprocess.Process


@asynccontextmanager
async def demo(*arguments: str) -> AsyncIterator[Process]:
    """The command with pipes for its standard output and error, which Python buffers by itself."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "demo", *arguments),
        env=kept,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        preexec_fn=listen_to_all,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines_until(process: Process, wanted: re.Pattern[str] | str) -> list[str]:
    """What it says until a line has that."""
    lines = []
    while line := (await process.stdout.readline()).decode():
        lines.append(line)
        if re.search(wanted, line):
            return lines
    pytest.fail(f"the demo has ended without {wanted}: {''.join(lines)}")


async def test_the_demo_makes_pictures_on_both_workers(tmp_path: Path) -> None:
    """Four pictures of the right size, made by two workers, each told with its file."""
    async with demo("--output", str(tmp_path)) as process:
        told = (await process.communicate())[0].decode()
    assert process.returncode == 0, told
    assert "4 of 4 pictures" in told
    assert "902x600 RGB PNG" in told
    assert len(os.listdir(tmp_path)) == 4
    for name in os.listdir(tmp_path):
        assert f"-> {tmp_path / name}\n" in told
    assert len(set(re.findall(r"by (127\.0\.0\.1:\d+)", told))) == 2


async def test_each_step_is_said_when_it_begins_and_where_the_dashboard_is(tmp_path: Path) -> None:
    """In a pipe too: whoever reads the line can open the page, and follow the pictures."""
    async with demo("--output", str(tmp_path), "--keep") as process, aiohttp.ClientSession() as web:
        before = await lines_until(process, DASHBOARD)
        assert re.search("starting embedded CPU worker 1 of 2", before[0])
        async with web.get(DASHBOARD.search(before[-1])[1]) as page:
            assert page.status == 200
        during = await lines_until(process, "4 of 4 pictures")
        for name in ("coffee", "chelsea", "rocket"):
            assert any(f"{name}-" in line for line in during)
        again = await lines_until(process, "still running")
        assert DASHBOARD.search(again[-1])
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_the_port_may_be_chosen(tmp_path: Path) -> None:
    """One that is taken is told in one line, without a stack trace."""
    with kept_port() as port:
        async with demo("--output", str(tmp_path), "--port", str(port), "--keep") as process:
            lines = await lines_until(process, DASHBOARD)
            assert f"http://127.0.0.1:{port}/dashboard" in lines[-1]
            async with demo("--output", str(tmp_path), "--port", str(port)) as second:
                _, errors = await second.communicate()
    assert second.returncode == 1
    assert len(errors.splitlines()) == 1, errors
    assert str(port) in errors.decode()


async def test_an_output_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    """Before any worker is started."""
    (tmp_path / "file").touch()
    async with demo("--output", str(tmp_path / "file" / "folder")) as process:
        told, errors = await process.communicate()
    assert process.returncode == 1
    assert told == b""
    assert len(errors.splitlines()) == 1
    assert str(tmp_path / "file") in errors.decode()


async def test_an_interrupted_demo_ends_without_a_stack_trace(tmp_path: Path) -> None:
    """^C in its midst is an end like another; the exit code is a shell's for it."""
    async with demo("--output", str(tmp_path)) as process:
        await lines_until(process, "running 4 jobs")
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors.decode()


async def test_a_reader_that_goes_away_ends_the_demo_without_a_stack_trace(tmp_path: Path) -> None:
    """``comfy-proxy demo | head -1`` has been told what it wanted to know."""
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "demo", "--output", str(tmp_path)),
        stdout=writing,
        stderr=PIPE,
    )
    os.close(writing)
    os.close(reading)
    async with asyncio.timeout(PATIENCE_S):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors == b""
