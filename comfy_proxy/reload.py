"""The configuration read again while the proxy runs (SIGHUP).

Keys, origins, the log level and the rows of ROUTES_FILE are taken over, all of them or none; every
other setting needs a restart, because rooms are built with it. What is open, and would be refused
now, is ended (``open_streams.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Final

from aiohttp import web
from loguru import logger

from comfy_proxy.errors import SettingsError
from comfy_proxy.gateway.custom.rows import read_rows
from comfy_proxy.keys import GATEWAY, LOGS, SETTINGS
from comfy_proxy.middleware import ORIGINS
from comfy_proxy.open_streams import end_unwelcome
from comfy_proxy.security import forms_of, start_warnings
from comfy_proxy.settings import VARIABLES, Settings

TAKEN_OVER: Final = ("api_keys", "api_keys_file", "cors_origins", "log_level", "routes_file")
"""The fields of Settings that may change while the proxy runs."""
_NAMES: Final = {row.field: row.name for row in VARIABLES} | {
    "instances": "COMFYUI_HOST_1…",
    "instance_names": "COMFYUI_NAME_1…",
}


def reload(app: web.Application, load: Callable[[], Settings]) -> bool:
    """Read the configuration again by ``load``, and tell in one line of the log what came of it.

    If anything in it, or in ROUTES_FILE, is wrong, nothing changes, and it is False.
    """
    settings, gateway = app[SETTINGS], app[GATEWAY]
    try:
        new = load()
        rows = tuple(read_rows(new.routes_file)) if new.routes_file else ()
    except SettingsError as error:
        problems = "; ".join(" ".join(problem.split()) for problem in error.problems)
        logger.error("the configuration is as it was: {}", problems)
        return False
    changed = [one.name for one in fields(new) if getattr(new, one.name) != _now(app, one.name)]
    if rows != gateway.rows.own and "routes_file" not in changed:
        changed.append("routes_file")
    app[LOGS].redaction.hide(forms_of(new.api_keys))
    for name in TAKEN_OVER:
        # All rooms hold this one object. It is frozen for them: only here it changes.
        object.__setattr__(settings, name, getattr(new, name))
    app[ORIGINS].replace(new.cors_origins)
    gateway.rows.replace(rows)
    if new.log_level != app[LOGS].level:
        app[LOGS].set_level(new.log_level)
    _tell(changed)
    if {"api_keys", "cors_origins"} & set(changed):
        end_unwelcome(app)
    if "api_keys" in changed:
        for warning in start_warnings(settings, {}):
            logger.warning(warning)
    return True


def _now(app: web.Application, name: str) -> object:
    """What is so; the log level may have been changed by a signal since."""
    return app[LOGS].level if name == "log_level" else getattr(app[SETTINGS], name)


def _tell(changed: list[str]) -> None:
    taken = [_NAMES[name] for name in changed if name in TAKEN_OVER]
    left = [_NAMES[name] for name in changed if name not in TAKEN_OVER]
    told = [f"{', '.join(taken)} taken over"] if taken else []
    told += [f"{', '.join(left)} left as before: that needs a restart"] if left else []
    level = "WARNING" if left else "INFO"
    logger.log(
        level, "the configuration was read again: {}", "; ".join(told) or "nothing has changed"
    )
