"""The proxy in a process of its own, so that ComfyUI's work does not hold up its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

END_TIMEOUT_S = 10.0
"""Seconds for the proxy to end once it is told to; beyond, it is killed."""
LINES = 8
"""Lines without a level of which the reason for an end is made."""

_LOGGED = re.compile(r"\S+Z (error|warn|info|debug) +(.*)")
_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING}
_NO_MODULE = re.compile(r"No module named '?comfy_proxy\b")


class ProxyProcess:
    """One run of the proxy. It ends when this process does, however that happens: it reads a pipe
    of which only we hold the other end.

    `listening` is done when it listens, `ended` with its exit code; both belong to the event loop
    in which it was made. Its warnings and errors go to ComfyUI's log; everything is in its own.
    """

    def __init__(self, command: Sequence[str], log: logging.Logger) -> None:
        self._command = list(command)
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: deque[str] = deque(maxlen=LINES)
        self._level: int | None = None
        self._has_listened = False
        self.listening: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[int] = self._loop.create_future()

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    def start(self, environment: Mapping[str, str]) -> None:
        """Raises OSError if the command cannot be run."""
        # In a session of its own: ^C in the terminal is for ComfyUI, which then ends the proxy.
        own: dict[str, Any] = (
            {"start_new_session": True}
            if os.name == "posix"
            else {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        )
        self._process = subprocess.Popen(
            self._command,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **own,
        )
        threading.Thread(target=self._read, name="comfy_proxy", daemon=True).start()

    def reason(self) -> str:
        """Why it ended, without a full stop: what it said last, if it never listened."""
        lines = [line for line in self._said if line]
        if any(map(_NO_MODULE.search, lines)):
            return (
                f"comfyui-proxy is not installed in {self._command[0]}"
                f" ({self._command[0]} -m pip install comfyui-proxy)"
            )
        told = [line.removeprefix("comfy-proxy: ") for line in lines if line.startswith("comfy-p")]
        code = self.ended.result() if self.ended.done() else None
        if told:
            return "; ".join(told)
        if lines:
            return f"{self._command[0]} said last: {lines[-1]}"
        return f"it ended with exit code {code}"

    def let_go(self) -> None:
        """Close our end of the pipe: the proxy ends. Also for a forked process, which has it too
        and would keep the proxy alive."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def end(self, timeout_s: float = END_TIMEOUT_S) -> None:
        """Have it end, and wait for that; kill it after `timeout_s`. Blocks: for ComfyUI's exit."""
        if self._process is None:
            return
        self.let_go()
        try:
            self._process.wait(timeout_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        """In a thread: hear what it says until it has ended."""
        process = self._process
        if process is None or process.stdout is None:
            return
        with process.stdout:
            for line in process.stdout:
                self._hear(line.decode("utf-8", "replace").rstrip())
        code = process.wait()
        self.let_go()
        self._soon(partial(_settle, self.ended, code))

    def _hear(self, line: str) -> None:
        if line.startswith('{"listening": ') and _is_json(line):
            self._has_listened = True
            self._soon(partial(_settle, self.listening, None))
        elif logged := _LOGGED.fullmatch(line):
            self._level = _LEVELS.get(logged[1])
            self._tell(logged[2])
            if self._level == logging.ERROR and not self._has_listened:
                self._said.append(logged[2])
        elif self._has_listened:  # no line of its log, such as the words of a crash
            self._level = self._level or logging.WARNING
            self._tell(line)
        else:
            self._said.append(line)

    def _tell(self, text: str) -> None:
        if self._level is not None:
            self._log.log(self._level, "comfy_proxy: %s", text)

    def _soon(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # ComfyUI's event loop is closed
            self._loop.call_soon_threadsafe(function)


def _settle(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
