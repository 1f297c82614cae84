"""Keeps one proxy running while ComfyUI does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping

from .proxy_process import ProxyProcess

START_TIMEOUT_S = 60.0
"""Seconds for the proxy to listen after its start, half a second of which it needs on an idle
machine; beyond, it counts as one that does not start."""
MAX_RESTARTS = 5
"""Times that a proxy which has ended is started again within RESTART_WINDOW_S; beyond, ComfyUI
listens itself."""
RESTART_WINDOW_S = 600.0
FIRST_PAUSE_S = 0.25
"""Seconds before the first restart; each one more within RESTART_WINDOW_S waits twice as long."""
EXIT_SETTINGS = 2
"""The exit code of a proxy whose settings cannot be used: they are no better the next time."""
FORMER = "COMFY_PROXY_CHILD_PID"
"""The variable in which a ComfyUI that replaces itself (ComfyUI-Manager's reboot) finds the proxy
of before: it keeps its process id, and so its children."""


class NotStarted(Exception):  # noqa: N818 (its text is told to the user; nothing else is wrong)
    """The proxy does not listen; the text says why. `final`: it would not the next time either."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Supervisor:
    """Starts the proxy, starts it again when it has ended, and ends it.

    `make` makes a process that has not begun; `environ` is ComfyUI's environment. `monotonic`
    (seconds) and `sleep` are the clock.
    """

    def __init__(
        self,
        make: Callable[[], ProxyProcess],
        environment: Mapping[str, str],
        log: logging.Logger,
        *,
        environ: MutableMapping[str, str],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._make = make
        self._environment = environment
        self._log = log
        self._environ = environ
        self._monotonic = monotonic
        self._sleep = sleep
        self._process: ProxyProcess | None = None
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    @property
    def pid(self) -> int:
        """The process id of the proxy that runs; 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Return when the proxy listens. Raises NotStarted; then no process is left."""
        process = self._process = self._make()
        try:
            process.start(self._environment)
        except OSError as error:
            raise NotStarted(f"{error.filename or 'it'} cannot be run: {error.strerror}") from None
        self._environ[FORMER] = str(process.pid)
        await asyncio.wait(
            (process.listening, process.ended),
            timeout=START_TIMEOUT_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if process.listening.done() and not process.ended.done():
            return
        if not process.ended.done():
            await asyncio.to_thread(self.end)
            raise NotStarted(f"the proxy did not listen within {START_TIMEOUT_S:.0f} s")
        self.end()  # it has ended: this gives back what is left of it
        raise NotStarted(process.reason(), final=process.ended.result() == EXIT_SETTINGS)

    async def keep(self) -> str:
        """Start the proxy again whenever it has ended; return, with the reason, when that is of no
        use any more."""
        while (process := self._process) is not None:
            await process.ended
            if (reason := await self._start_again(process.reason())) is not None:
                return reason
        return "the proxy was ended"

    async def _start_again(self, reason: str) -> str | None:
        """None when it listens again, else why it does not; `reason` is why it has ended."""
        while (pause_s := self._pause()) is not None:
            self._log.warning("comfy_proxy: the proxy has ended (%s) and is started again.", reason)
            await self._sleep(pause_s)
            try:
                await self.start()
            except NotStarted as error:
                reason = str(error)
                if error.final:
                    return reason
            else:
                return None
        return f"it has ended {MAX_RESTARTS + 1} times in {RESTART_WINDOW_S:.0f} s ({reason})"

    def _pause(self) -> float | None:
        """Seconds to wait before the next restart; None: there have been too many."""
        now = self._monotonic()
        while self._restarts and self._restarts[0] <= now - RESTART_WINDOW_S:
            self._restarts.popleft()
        if len(self._restarts) == MAX_RESTARTS:
            return None
        self._restarts.append(now)
        return FIRST_PAUSE_S * 2.0 ** (len(self._restarts) - 1)

    def end(self) -> None:
        """End the proxy, and wait for that. Blocks: for ComfyUI's exit."""
        process, self._process = self._process, None
        if process is not None:
            process.end()
            self._environ.pop(FORMER, None)

    def _forked(self) -> None:
        if self._process is not None:
            self._process.let_go()


def take_leave_of_former(environ: MutableMapping[str, str]) -> bool:
    """True if the proxy of a ComfyUI that has replaced itself by this one still runs.

    Once it has ended, its process id is given back to the operating system.
    """
    text = environ.get(FORMER, "")
    if not text.isdecimal() or not hasattr(os, "WNOHANG"):
        return False
    with contextlib.suppress(ChildProcessError):  # no child of this process: another's variable
        if os.waitpid(int(text), os.WNOHANG) == (0, 0):
            return True
    del environ[FORMER]
    return False
