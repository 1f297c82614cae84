"""The command ``comfy-proxy``.

Each command is described once (``command.py``, ``table.py``). typer reads the command line where
the extra ``cli`` is installed, argparse where it is not; what a command does is the same.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from comfy_proxy.cli import argparse_front
from comfy_proxy.cli.command import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Command,
    CommandError,
    Values,
)
from comfy_proxy.cli.table import ABOUT, COMMANDS
from comfy_proxy.errors import SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 is an orderly end, 1 a failure, 2 settings or words that cannot be used,
    130 ^C. What goes wrong is told in one sentence on standard error."""
    _open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Each line is written at once, in a pipe or a file too, and a node's name that the encoding
        # of the console lacks does not end the command.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        parsed = _parsed(sys.argv[1:] if arguments is None else arguments)
        return parsed if isinstance(parsed, int) else _run(*parsed)
    except SettingsError as error:
        for problem in error.problems:
            print(f"comfy-proxy: {problem}", file=sys.stderr)
        return EXIT_USAGE
    except CommandError as error:
        print(f"comfy-proxy: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our standard output has gone, as `head` does. Python flushes it once more at
        # the exit, which would fail again: that goes to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _parsed(arguments: Sequence[str]) -> tuple[Command, Values] | int:
    try:
        from comfy_proxy.cli import typer_front
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("comfy_proxy"):
            raise
        named = next((one for one in COMMANDS if one.name in arguments[:1]), None)
        if named is not None and named.extra and not {"-h", "--help"} & set(arguments):
            raise _lacking(named, error) from None
        return argparse_front.parse(COMMANDS, arguments, ABOUT)
    return typer_front.parse(COMMANDS, arguments, ABOUT)


def _run(command: Command, values: Values) -> int:
    try:
        return command.run(values)
    except BrokenPipeError:
        raise
    except OSError as error:
        if command.extra is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"{where}{error.strerror or error}") from None
    except ModuleNotFoundError as error:
        if command.extra is None or (error.name or "").startswith("comfy_proxy"):
            raise
        raise _lacking(command, error) from None


def _lacking(command: Command, error: ModuleNotFoundError) -> CommandError:
    return CommandError(
        f"{command.name} needs the extra {command.extra!r} ({error.name} is missing):"
        f" pip install 'comfyui-proxy[{command.extra}]'"
    )


def _open_missing_streams() -> None:
    """Open /dev/null for each standard stream that was closed before we began.

    Otherwise a socket would get its number (0 to 2), and what is printed would be sent on it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
