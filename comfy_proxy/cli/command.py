"""What a command of ``comfy-proxy`` is: described once, for typer and for argparse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
"""Settings, options or names that cannot be used."""
EXIT_INTERRUPTED: Final = 130
"""Ctrl-C, as a shell has it."""

Values = SimpleNamespace
"""What was given on the command line, by the names of the parameters."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """An option (its ``flag`` begins with ``--``), or an argument (it has no flag).

    ``name`` is the attribute of Values. ``type`` is ``str``, ``float``, ``int``, ``bool`` (an
    option without a value) or ``Path``. ``many``: it may be given several times, and is a list.
    ``bare``: the value if the option is given without one. ``complete`` gives words for
    the shell, by the values that the line has so far.
    """

    name: str
    help: str
    flag: str | None = None
    short: str | None = None
    type: type = str
    default: Any = None
    required: bool = False
    many: bool = False
    bare: str | None = None
    metavar: str | None = None
    complete: Callable[[Values], Iterable[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """``run`` takes the values and gives the exit code. ``extra``: what of setup.cfg it needs.

    ``help`` is one sentence for the list of commands, ``more`` what the command's own help adds.
    """

    name: str
    help: str
    run: Callable[[Values], int]
    parameters: tuple[Parameter, ...] = ()
    more: str = ""
    extra: str | None = None


def option(name: str, text: str, **rest: Any) -> Parameter:
    """``--name`` with dashes; ``text`` is its help."""
    return Parameter(name=name, help=text, flag=f"--{name.replace('_', '-')}", **rest)


def argument(name: str, text: str, **rest: Any) -> Parameter:
    return Parameter(name=name, help=text, **rest)


def check_range(name: str, number: float, low: float, high: float) -> None:
    """Raises CommandError, exit code 2, if the option ``name`` is not between both (NaN is not)."""
    if not low <= number <= high:
        between = f"is from {low} to {high}" if high < math.inf else f"is at least {low}"
        raise CommandError(f"{name} {between}, not {number}.", code=EXIT_USAGE)


class CommandError(Exception):
    """A sentence for whoever has typed the command, and the exit code to end with."""

    def __init__(self, message: str, *, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code
