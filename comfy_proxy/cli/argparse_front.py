"""The command line by argparse, which needs nothing but Python: without the extra ``cli``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from comfy_proxy.cli.command import Command, Parameter, Values
from comfy_proxy.version import __version__

Parsed = tuple[Command, Values]


def parse(commands: Iterable[Command], arguments: Sequence[str] | None, about: str) -> Parsed:
    """Which command with which values. Raises SystemExit, 2 after a mistake and 0 after help."""
    values = vars(parser(commands, about).parse_args(arguments))
    return values.pop("command"), Values(**values)


def parser(commands: Iterable[Command], about: str) -> argparse.ArgumentParser:
    """The namespace that it makes has the Command as ``command`` beside the values."""
    made = argparse.ArgumentParser(prog="comfy-proxy", description=about, allow_abbrev=False)
    made.add_argument("--version", action="version", version=f"comfy-proxy {__version__}")
    listed = made.add_subparsers(required=True, metavar="COMMAND")
    for command in commands:
        needs = f" (needs the extra {command.extra!r})" if command.extra else ""
        one = listed.add_parser(
            command.name,
            help=_plain(command.help + needs),
            description=_plain(f"{command.help}. {command.more}".strip()),
            allow_abbrev=False,
        )
        one.set_defaults(command=command)
        for parameter in command.parameters:
            _add(one, parameter)
    return made


def _add(to: argparse.ArgumentParser, parameter: Parameter) -> None:
    options: dict[str, Any] = {"help": _plain(parameter.help), "default": parameter.default}
    if parameter.type is bool:
        options["action"] = "store_true"
        options["default"] = False
    else:
        options["type"] = parameter.type
        options["metavar"] = parameter.metavar or parameter.name.upper()
        if parameter.many:
            options["default"] = []
    if parameter.flag is None:
        options.pop("default", None)
        if parameter.many:
            options["nargs"] = "+" if parameter.required else "*"
        elif not parameter.required:
            options["nargs"] = "?"
        to.add_argument(parameter.name, **options)
        return
    if parameter.many:
        options["action"] = "append"
    if parameter.bare is not None:
        options |= {"nargs": "?", "const": parameter.type(parameter.bare)}
    flags = [parameter.short] if parameter.short else []
    to.add_argument(
        *flags, parameter.flag, dest=parameter.name, required=parameter.required, **options
    )


def _plain(text: str) -> str:
    """argparse reads a percent sign as a format."""
    return text.replace("%", "%%")
