"""One run of the proxy: what is heard of it, and how it ends. Programs of one line stand for it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from serving import PATIENCE_S

LISTENS = """print('{"listening": ["http://127.0.0.1:1"], "pid": 7}', flush=True)"""
WAITS = "sys.stdin.read()"
AT = "2026-11-29T07:39:24.038Z"
Make = Callable[..., Any]


@pytest.fixture
def make(plugin: Any) -> Make:
    """``make(statement, …)`` → a process that does so, not begun."""

    def make(*statements: str) -> Any:
        command = [sys.executable, "-c", "\n".join(["import sys, time", *statements])]
        return plugin("proxy_process").ProxyProcess(command, logging.getLogger("comfy_proxy"))

    return make


async def ended(process: Any) -> int:
    process.start(os.environ)
    async with asyncio.timeout(PATIENCE_S):
        return await process.ended


async def test_it_listens_until_it_is_told_to_end(make: Make) -> None:
    process = make(LISTENS, WAITS, "sys.exit(5)")
    process.start(os.environ)
    async with asyncio.timeout(PATIENCE_S):
        await process.listening
        assert not process.ended.done()
        await asyncio.to_thread(process.end)
        assert await process.ended == 5


async def test_one_that_does_not_end_is_killed(make: Make) -> None:
    process = make(LISTENS, WAITS, "time.sleep(1000)")
    process.start(os.environ)
    async with asyncio.timeout(PATIENCE_S):
        await process.listening
        await asyncio.to_thread(process.end, 0.0)
        assert await process.ended == -9


async def test_comfyui_has_its_warnings_and_errors(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """With what follows them, and the words of a crash; the rest is in its own log files."""
    caplog.set_level(logging.DEBUG)
    said = (f"{AT} info  listening", f"{AT} warn  slow", f"{AT} error broken", "Traceback: here")
    process = make(LISTENS, *(f"print({line!r})" for line in said), f"print('{AT} info  fine')")
    assert await ended(process) == 0
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "comfy_proxy: slow"),
        ("ERROR", "comfy_proxy: broken"),
        ("ERROR", "comfy_proxy: Traceback: here"),
    ]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "it ended with exit code 3"),
        (["comfy-proxy: A: wrong", "comfy-proxy: B: wrong"], "A: wrong; B: wrong"),
        ([f"{AT} error cannot listen on ::1:80: Permission denied"], "said last: cannot listen on"),
        (["Traceback", "ModuleNotFoundError: No module named 'yarl'"], "said last: ModuleNotFound"),
        (["python: No module named comfy_proxy"], "comfyui-proxy is not installed in "),
        (["No module named comfy_proxy.__main__; …"], "comfyui-proxy is not installed in "),
    ],
)
async def test_why_it_did_not_listen(make: Make, lines: list[str], reason: str) -> None:
    """In its own words, as far as it has said some."""
    process = make(*(f"print({line!r})" for line in lines), "sys.exit(3)")
    assert await ended(process) == 3
    assert reason in process.reason()


async def test_what_it_said_long_ago_is_no_reason(make: Make) -> None:
    """Of one that has listened."""
    process = make(LISTENS, f"print('{AT} error no instance is healthy')", "sys.exit(3)")
    await ended(process)
    assert process.reason() == "it ended with exit code 3"
