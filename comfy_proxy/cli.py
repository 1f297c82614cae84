"""The command ``comfy-proxy``: ``serve``, ``check``, ``demo``, and what is said to one that runs:
``drain``, ``resume``, ``add`` and ``remove``."""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from yarl import URL

from comfy_proxy.check import check_instances
from comfy_proxy.errors import SettingsError
from comfy_proxy.instance_commands import change_instance
from comfy_proxy.logs import configure_console
from comfy_proxy.security import start_warnings
from comfy_proxy.serve import EXIT_FAILED, serve
from comfy_proxy.settings import load_settings
from comfy_proxy.version import __version__

EXIT_SETTINGS = 2
EXIT_INTERRUPTED = 130
_ACTIONS = {
    "drain": "give an instance nothing new, so that it may be restarted",
    "resume": "give a drained instance work again",
    "add": "have one more instance, until the proxy is restarted",
    "remove": "have one less: what waits there goes elsewhere, what runs there ends first",
}


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
    run = commands.add_parser("serve", help="run the proxy in front of your instances")
    run.add_argument("--config", type=Path, help="a TOML file; the environment wins")
    run.add_argument(
        "--supervised", action="store_true",
        help="say in a JSON line on standard output when it listens, and end when standard input"
        " does: for a program that starts it",
    )  # fmt: skip
    run.set_defaults(run=_serve)
    check = commands.add_parser("check", help="ask each instance what it can run, and leave")
    check.add_argument("--config", type=Path)
    check.set_defaults(run=_check)
    for action, text in _ACTIONS.items():
        change = commands.add_parser(action, help=text)
        _add_change(change, action)
    demo = commands.add_parser("demo", help="two CPU workers, the proxy, real pictures")
    demo.add_argument("--output", type=Path, default=Path("demo-output"))
    demo.add_argument("--keep", action="store_true", help="leave everything running")
    demo.set_defaults(run=_demo)
    return parser


def _add_change(change: argparse.ArgumentParser, action: str) -> None:
    """The arguments of a command that is said to the proxy that runs."""
    if action == "add":
        change.add_argument("instance", metavar="ADDRESS", help="host:port, or http(s)://…")
        change.add_argument("--name", help="what it is to be called")
    else:
        change.add_argument("instance", metavar="ID", help="its number, or its name")
    change.add_argument("--config", type=Path, help="the file of the proxy that runs")
    change.add_argument("--url", type=URL, help="the proxy's address, if not HOST and PORT")
    change.set_defaults(run=_change, action=action, wait=0.0, name=None, force=False)
    if action in ("drain", "remove"):
        change.add_argument(
            "--wait", type=float, nargs="?", const=math.inf, default=0.0, metavar="SECONDS",
            help="return when nothing waits or runs there, or fail after SECONDS",
        )  # fmt: skip
    if action == "remove":
        change.add_argument(
            "--force", action="store_true", help="at once: what runs there begins anew elsewhere"
        )


def _serve(options: argparse.Namespace) -> int:
    load = partial(load_settings, config_file=options.config)
    return serve(load, supervised=options.supervised)


def _change(options: argparse.Namespace) -> int:
    return asyncio.run(
        change_instance(
            options.action,
            options.instance,
            settings=load_settings(config_file=options.config),
            url=options.url,
            wait_s=options.wait,
            name=options.name,
            force=options.force,
            say=print,
        )
    )


def _check(options: argparse.Namespace) -> int:
    settings = load_settings(config_file=options.config)
    configure_console("error")
    for warning in start_warnings(settings, os.environ):
        print(f"comfy-proxy: {warning}", file=sys.stderr)
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
