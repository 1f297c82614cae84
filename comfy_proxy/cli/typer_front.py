"""The command line by typer (extra ``cli``): help that is easy to read, and shells' completion.

typer reads the signature of a function, so one is made of each Command. The function only returns
what was given: the command runs outside of typer, whichever of the two fronts has read its line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.main import get_command

from comfy_proxy.cli.command import Command, CommandError, Parameter, Values
from comfy_proxy.cli.proxy_address import OPTIONS
from comfy_proxy.version import __version__

Parsed = tuple[Command, Values]


def parse(commands: Iterable[Command], arguments: Sequence[str], about: str) -> Parsed | int:
    """Which command with which values; an exit code if there is nothing left to do, as after
    ``--help``. Raises CommandError for a mistake."""
    known = tuple(commands)
    try:
        found: Parsed | int = get_command(app(known, about)).main(
            args=filled(known, arguments), prog_name="comfy-proxy", standalone_mode=False
        )
    except typer.TyperException as error:
        sentence = error.format_message().rstrip(".")
        raise CommandError(f"{sentence} (see --help)", code=error.exit_code) from None
    return found


def app(commands: Iterable[Command], about: str) -> typer.Typer:
    made = typer.Typer()
    made.callback(help=escape(about))(_common)
    for command in commands:
        made.command(command.name, help=escape(f"{command.help}.\n\n{command.more}".strip()))(
            _function(command)
        )
    return made


def filled(commands: Iterable[Command], arguments: Sequence[str]) -> list[str]:
    """An option that needs no value gets its ``bare`` one: typer has no such options."""
    bare = {
        parameter.flag: f"{parameter.flag}={parameter.bare}"
        for command in commands
        if command.name in arguments[:1]
        for parameter in command.parameters
        if parameter.bare is not None
    }
    words = list(arguments)
    return [
        bare[word] if word in bare and after.startswith("-") else word
        for word, after in zip(words, [*words[1:], "--"], strict=False)
    ]


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"comfy-proxy {__version__}")
        raise SystemExit(0)


def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Say which version this is, and leave.",
            callback=_say_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """What stands before the command."""


def _function(command: Command) -> Callable[..., Parsed]:
    """A function with a parameter for each of the command's; typer calls it with the values."""

    def given(**values: Any) -> Parsed:
        return command, Values(**values)

    parameters = [_signature(parameter) for parameter in command.parameters]
    given.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    given.__annotations__ = {one.name: one.annotation for one in parameters}
    return given


def _signature(parameter: Parameter) -> inspect.Parameter:
    kind: Any = parameter.type
    default: Any = parameter.default
    if parameter.many:
        kind, default = list[kind], []
    elif parameter.type is bool:
        default = False
    elif default is None and not parameter.required:
        kind = kind | None
    options: dict[str, Any] = {"help": escape(parameter.help), "show_default": False}
    if parameter.type is not bool:
        options["metavar"] = parameter.metavar or parameter.name.upper()
    if parameter.complete is not None:
        options["autocompletion"] = _completion(parameter.complete)
    if parameter.flag is None:
        information: Any = typer.Argument(**options)
    else:
        flags = [parameter.flag] + ([parameter.short] if parameter.short else [])
        information = typer.Option(*flags, **options)
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if parameter.required else default,
        annotation=Annotated[kind, information],
    )


def _completion(
    words: Callable[[Values], Iterable[str]],
) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        given = {parameter.name: ctx.params.get(parameter.name) for parameter in OPTIONS}
        return [word for word in words(Values(**given)) if word.startswith(incomplete)]

    return complete
