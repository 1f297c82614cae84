"""``comfy-proxy serve``: the application in a process of its own, and what signals do to it."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web
from loguru import logger
from yarl import URL

from comfy_proxy.app import create_app, finish_work
from comfy_proxy.connection_guard import Connections, guarded_loop
from comfy_proxy.found_instances import tell_instances
from comfy_proxy.keys import LOGS, SETTINGS
from comfy_proxy.large_blocks import give_back_large_blocks
from comfy_proxy.logs.entry import LEVELS
from comfy_proxy.reload import reload
from comfy_proxy.security import start_warnings
from comfy_proxy.settings import Settings
from comfy_proxy.supervised import end_with_parent, tell_parent
from comfy_proxy.tls import load_pair, server_context
from comfy_proxy.version import __version__

EXIT_FAILED: Final = 1
KEEPALIVE_TIMEOUT_S: Final = 3630.0
"""Seconds for which a client's idle connection is kept; then it is closed. As long as ComfyUI keeps
it, and longer than clients do (90 s in Go and Traefik; aiohttp's default is 75 s): else a client
may post on it at the moment we close it."""
AT_ONCE_S: Final = 1.0
"""Seconds after a second signal in which sockets are closed and prompts withdrawn; what takes
longer is cut off with the process."""
_CANNOT_LISTEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
"""Failures of HOST and PORT, told in one line and without a stack trace."""


def serve(load: Callable[[], Settings], *, supervised: bool = False) -> int:
    """Run the proxy until a signal ends it; 0 is an orderly end, 1 a port that cannot be had.

    ``load`` reads the settings, at SIGHUP once more. ``supervised``: another program has started
    us, is told when we listen and ends us by its own end. Raises SettingsError.
    """
    # Until Signals.listen they would end the process. Windows lacks them (AttributeError).
    with suppress(AttributeError):
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    settings = load()
    give_back_large_blocks()
    app = create_app(settings)
    logs = app[LOGS]
    logs.start(sys.stderr, owns_process=True)
    tls = server_context(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
    signals = Signals(app, load, tls)
    app.cleanup_ctx.append(tell_instances)
    app.on_startup.insert(0, signals.listen)
    if supervised:
        app.on_startup.insert(0, signals.listen_to_parent)
    app.on_startup.append(freeze)
    try:
        return run(app, settings, tls, tell_parent if supervised else None)
    finally:
        logs.close()


def run(
    app: web.Application,
    settings: Settings,
    tls: ssl.SSLContext | None = None,
    tell: Callable[[Sequence[str]], None] | None = None,
) -> int:
    """Listen at HOST and PORT until GracefulExit is raised; the exit code.

    ``tell`` is given our URLs once we listen at all of them.
    """
    _tell_start(settings)
    urls = own_urls(settings, https=tls is not None)
    connections = Connections(settings.max_client_connections)
    app.on_shutdown.insert(0, connections.end)
    try:
        web.run_app(
            app,
            host=settings.hosts or None,
            port=settings.port,
            ssl_context=tls,
            access_log=None,  # the middleware logs one line for each request
            handler_cancellation=True,  # a client that leaves ends what it waited for, there too
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            # For what is still being sent when the jobs have ended or had their grace period: a
            # client that has stopped reading delays the exit by no more than this.
            shutdown_timeout=settings.shutdown_timeout_s,
            print=lambda _: _tell_addresses(settings, urls, tell),
            loop=guarded_loop(_event_loop(), connections),
        )
    except OSError as error:
        if error.errno not in _CANNOT_LISTEN and not isinstance(error, socket.gaierror):
            raise
        logger.error("cannot listen on {}:{}: {}", settings.host, settings.port, error.strerror)
        return EXIT_FAILED
    return 0


def _tell_start(settings: Settings) -> None:
    """Log what is dubious about the settings, and the instances."""
    for warning in start_warnings(settings, os.environ):
        logger.warning(warning)
    names = map(settings.name_of, range(len(settings.instances)))
    instances = ", ".join(
        f"{name} = {url}" if name else str(url)
        for name, url in zip(names, settings.instances, strict=True)
    )
    logger.info("comfy_proxy {} in front of {}", __version__, instances)


def _tell_addresses(
    settings: Settings, urls: Sequence[URL], tell: Callable[[Sequence[str]], None] | None
) -> None:
    """Log that we listen, and tell whoever has started us."""
    logs = settings.log_directory and settings.log_directory.absolute()
    listed = ", ".join(map(str, urls))
    logger.info("listening on {}; dashboard: {}; logs: {}", listed, urls[0] / "dashboard", logs)
    if tell is not None:
        tell([str(url) for url in urls])


def own_urls(settings: Settings, *, https: bool) -> list[URL]:
    """Where HOST and PORT make the proxy listen."""
    hosts = settings.hosts or ("0.0.0.0",)
    scheme = "https" if https else "http"
    return [URL.build(scheme=scheme, host=host, port=settings.port) for host in hosts]


class Signals:
    """SIGTERM and SIGINT: the first one lets what was accepted come to its end with the door open
    (``shutdown.py``), the second one ends the process within ``AT_ONCE_S``. SIGHUP reads the
    configuration again, by ``load``, and the certificate of ``tls``. SIGUSR1 logs one level more,
    SIGUSR2 one less.
    """

    def __init__(
        self, app: web.Application, load: Callable[[], Settings], tls: ssl.SSLContext | None
    ) -> None:
        self._app = app
        self._load = load
        self._tls = tls
        self._had_terminal = has_terminal()
        self._finishing: asyncio.Task[None] | None = None
        self._at_once = False

    async def listen(self, app: web.Application) -> None:
        """Instead of aiohttp's own handlers, which would close the door at once.

        Nothing happens where the system or the event loop has no such signals; there SIGINT ends
        it as aiohttp does. What is ignored, as `nohup` has it with SIGHUP, stays so.
        """
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError, AttributeError):
            loop.add_signal_handler(signal.SIGUSR1, self._change_level, 1)
            loop.add_signal_handler(signal.SIGUSR2, self._change_level, -1)
            loop.add_signal_handler(signal.SIGTERM, self._end)
            loop.add_signal_handler(signal.SIGINT, self._end)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    async def listen_to_parent(self, app: web.Application) -> None:
        """Once nobody holds the other end of standard input we end as at the first signal."""
        end_with_parent(self._end_once)

    def _end_once(self) -> None:
        """No second signal: whoever has sent the first one may have ended itself by it."""
        if self._finishing is None:
            self._end()

    def _change_level(self, step: int) -> None:
        logs = self._app[LOGS]
        place = min(max(LEVELS.index(logs.level) + step, 0), len(LEVELS) - 1)
        logs.set_level(LEVELS[place])

    def _hang_up(self) -> None:
        """The terminal in which it was started is closed, or somebody asks to read again."""
        if self._had_terminal and not has_terminal():
            self._end()
            return
        with self._app[LOGS].current():
            cert, key = self._app[SETTINGS].tls_cert, self._app[SETTINGS].tls_key
            if reload(self._app, self._load) and self._tls is not None and cert is not None:
                load_pair(self._tls, cert, key)  # `load` has found no fault in it

    def _end(self) -> None:
        if self._finishing is None:
            self._finishing = asyncio.create_task(finish_work(self._app), name="finish the work")
            self._finishing.add_done_callback(_exit)
        elif not self._at_once:
            self._at_once = True
            logger.warning("ending at once: it was asked for a second time")
            timer = threading.Timer(AT_ONCE_S, os._exit, [EXIT_FAILED])
            timer.daemon = True
            timer.start()
            self._finishing.cancel()  # no effect if it is over: then the rest is cut off


async def freeze(app: web.Application) -> None:
    """What is there at the start stays: the garbage collector need not look at it again.

    A collection of its oldest generation took 25 to 42 ms, in which nobody else had a turn. Only
    here, where the process is ours: a host may want to find what it has lost.
    """
    gc.collect()
    gc.freeze()


def has_terminal() -> bool:
    """Whether a terminal that controls this process is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except (OSError, AttributeError):  # Windows has no such flag
        return False
    return True


def _exit(finishing: asyncio.Task[None]) -> None:
    """Stop listening, and end (``app.py``). Also if the wait itself has met a fault."""
    if not finishing.cancelled() and (error := finishing.exception()) is not None:
        logger.opt(exception=error).error("waiting for the last work broke")
    raise web.GracefulExit


def _event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed (extra ``speed``), else asyncio's own."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make()
