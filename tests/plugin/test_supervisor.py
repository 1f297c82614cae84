"""How often, and when, a proxy that has ended is started again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pytest


class Process:
    """A proxy that listens or does not, and ends when it is told to. ``code``: it ends at once."""

    def __init__(self, pid: int, code: int | None) -> None:
        loop = asyncio.get_running_loop()
        self.pid = pid
        self.listening: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.was_ended = False
        self._code = code

    def start(self, environment: dict[str, str]) -> None:
        assert environment == {"A": "1"}
        if self._code is None:
            self.listening.set_result(None)
        else:
            self.ended.set_result(self._code)

    def reason(self) -> str:
        return f"code {self.ended.result()}"

    def end(self) -> None:
        self.was_ended = True

    def let_go(self) -> None: ...


class Clock:
    """Time passes in sleeps alone; they are recorded."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


class Proxies:
    """A supervisor of processes that end at once with the codes of ``codes``, or listen (None)."""

    def __init__(self, plugin: Any, codes: Iterable[int | None]) -> None:
        self.started: list[Process] = []
        self.clock = Clock()
        self.environ: dict[str, str] = {}
        self.module = plugin("supervisor")
        left = iter(codes)

        def make() -> Process:
            self.started.append(Process(len(self.started) + 1, next(left)))
            return self.started[-1]

        self.supervisor = self.module.Supervisor(
            make,
            {"A": "1"},
            logging.getLogger("test"),
            environ=self.environ,
            monotonic=self.clock.monotonic,
            sleep=self.clock.sleep,
        )

    async def until(self, count: int) -> None:
        """So many have been started."""
        while len(self.started) < count:  # noqa: ASYNC110 (turns of the loop, no time)
            await asyncio.sleep(0)


async def test_restarts_wait_longer_each_time_and_come_to_an_end(plugin: Any) -> None:
    """Five of them in ten minutes; then ComfyUI has to listen itself."""
    proxies = Proxies(plugin, [None, 1, 1, 1, 1, 1])
    await proxies.supervisor.start()
    kept = asyncio.create_task(proxies.supervisor.keep())
    proxies.started[0].ended.set_result(-9)
    assert await kept == "it has ended 6 times in 600 s (code 1)"
    assert proxies.clock.slept_s == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert len(proxies.started) == 6


async def test_who_dies_seldom_is_started_again_for_ever(plugin: Any) -> None:
    """A restart counts for ten minutes."""
    proxies = Proxies(plugin, [None] * 20)
    await proxies.supervisor.start()
    kept = asyncio.create_task(proxies.supervisor.keep())
    for number in range(1, 20):
        proxies.clock.now_s += proxies.module.RESTART_WINDOW_S
        proxies.started[-1].ended.set_result(1)
        await proxies.until(number + 1)
        assert proxies.supervisor.pid == number + 1
    assert set(proxies.clock.slept_s) == {0.25}
    kept.cancel()


async def test_wrong_settings_are_not_tried_again(plugin: Any) -> None:
    """They are no better the next time."""
    proxies = Proxies(plugin, [None, 2])
    await proxies.supervisor.start()
    kept = asyncio.create_task(proxies.supervisor.keep())
    proxies.started[0].ended.set_result(-9)
    assert await kept == "code 2"


async def test_one_that_does_not_listen_is_ended(
    plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After START_TIMEOUT_S; nothing of it is left."""
    proxies = Proxies(plugin, [None])
    monkeypatch.setattr(Process, "start", lambda self, environment: None)
    monkeypatch.setattr(proxies.module, "START_TIMEOUT_S", 0.0)
    with pytest.raises(proxies.module.NotStarted, match="did not listen"):
        await proxies.supervisor.start()
    assert proxies.started[0].was_ended
    assert proxies.supervisor.pid == 0
    assert proxies.environ == {}


def test_another_ones_variable_is_nobodys_proxy(plugin: Any) -> None:
    """A ComfyUI that was started by a ComfyUI inherits it: that process is no child of its own."""
    module = plugin("supervisor")
    environ = {module.FORMER: "1"}
    assert not module.take_leave_of_former(environ)
    assert environ == {}
