"""``comfy-proxy serve`` and ``check``: they need no extra, and have an option for each setting."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from comfy_proxy.cli.command import Command, Parameter, Values, option
from comfy_proxy.errors import SettingsError
from comfy_proxy.settings import VARIABLES, load_settings

if TYPE_CHECKING:
    from comfy_proxy.settings import Settings

SECRET: Final = ("API_KEYS", "WEBHOOK_SECRET")
"""Settings that are no option: everybody on the machine can read command lines."""


def _settings_options() -> tuple[Parameter, ...]:
    rows = tuple(
        option(
            row.name.lower(),
            f"{row.help} ({row.name}; default: {row.default})",
            metavar="VALUE",
        )
        for row in VARIABLES
        if row.name not in SECRET
    )
    return (
        option("config", "a TOML file; the environment wins, options win over both",
               type=Path, metavar="FILE"),
        option("instance", "a ComfyUI instance (host:port or a URL), as NAME=ADDRESS if it is to"
               " have a name; once for each. Those of the environment and the file do not count"
               " then", many=True, metavar="ADDRESS"),
        *rows,
    )  # fmt: skip


def given_settings(values: Values) -> dict[str, str]:
    """What the options say, by the names of variables. Raises SettingsError for an ``--instance``
    without an address: it would count as not set, and the proxy would serve others."""
    given: dict[str, str] = {}
    problems = []
    for number, text in enumerate(values.instance, start=1):
        name, sign, address = text.partition("=")
        if not sign or {"/", ":"} & set(name):
            name, address = "", text
        if not address.strip():
            problems.append(f"--instance {text!r} has no address")
        given[f"COMFYUI_HOST_{number}"] = address
        if name:
            given[f"COMFYUI_NAME_{number}"] = name
    if problems:
        raise SettingsError(problems)
    for row in VARIABLES:
        text = getattr(values, row.name.lower(), None)
        if text is not None:
            given[row.name] = text
    return given


def _settings(values: Values) -> Settings:
    return load_settings(config_file=values.config, options=given_settings(values))


def _serve(values: Values) -> int:
    from comfy_proxy.serve import serve

    return serve(lambda: _settings(values), supervised=values.supervised)


def _check(values: Values) -> int:
    from comfy_proxy.check import check_instances
    from comfy_proxy.logs import configure_console
    from comfy_proxy.security import start_warnings

    settings = _settings(values)
    configure_console("error")
    for warning in start_warnings(settings, os.environ):
        print(f"comfy-proxy: {warning}", file=sys.stderr)
    return asyncio.run(check_instances(settings, print))


_OPTIONS = _settings_options()
_SUPERVISED = option(
    "supervised",
    "say in a JSON line on standard output when it listens, and end when standard input does: for a"
    " program that starts it",
    type=bool,
    default=False,
)
COMMANDS = (
    Command(
        name="serve",
        help="run the proxy in front of your instances",
        more="It says which instances it has found and what each can run. Each option is a setting;"
        " secrets are none, because command lines can be read by everybody on the machine.",
        run=_serve,
        parameters=(*_OPTIONS, _SUPERVISED),
    ),
    Command(
        name="check",
        help="ask each instance what it can run, and leave",
        more="The exit code is 0 if all answer and each workflow can run on one of them.",
        run=_check,
        parameters=_OPTIONS,
    ),
)
