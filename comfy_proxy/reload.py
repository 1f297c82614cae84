"""The configuration read again while the proxy runs (SIGHUP).

Keys, origins, the log level, the rows of ROUTES_FILE and the instances with their names are taken
over, all of them or none; every other setting needs a restart, because rooms are built with it.
What is open, and would be refused now, is ended (``open_streams.py``).

For instances only that counts which has changed in the configuration since it was read last: those
that are new in it are added, those that are gone from it removed, as by an operator
(``cluster/membership.py``). What an operator has added or removed meanwhile stays so. A proxy that
was started with one instance keeps that one until it is restarted.

Workflow templates are read again too: where the operating system does not tell of changed files,
as on a network's file system, this is how they are taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Final

from aiohttp import web
from loguru import logger
from yarl import URL

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.membership import MembershipError
from comfy_proxy.errors import SettingsError
from comfy_proxy.gateway.custom.rows import read_rows
from comfy_proxy.instance_settings import canonical
from comfy_proxy.keys import CLUSTER, GATEWAY, JOBS, LOGS, SETTINGS
from comfy_proxy.middleware import ORIGINS
from comfy_proxy.open_streams import end_unwelcome
from comfy_proxy.security import forms_of, start_warnings
from comfy_proxy.settings import VARIABLES, Settings

TAKEN_OVER: Final = (
    *("api_keys", "api_keys_file", "cors_origins", "log_level", "routes_file"),
    *("instances", "instance_names"),
)
"""The fields of Settings that may change while the proxy runs."""
_NAMES: Final = {row.field: row.name for row in VARIABLES} | {
    "instances": "COMFYUI_HOST_1…",
    "instance_names": "COMFYUI_NAME_1…",
}


def reload(app: web.Application, load: Callable[[], Settings]) -> bool:
    """Read the configuration again by ``load``, and log in one line what came of it. Returns False
    if anything in it, or in ROUTES_FILE, is wrong; then nothing has changed."""
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
    before = replace(settings)
    taken_over = [name for name in TAKEN_OVER if _may_change(app, name)]
    for name in taken_over:
        # All rooms hold this one object. It is frozen for them: only here it changes.
        object.__setattr__(settings, name, getattr(new, name))
    app[ORIGINS].replace(new.cors_origins)
    gateway.rows.replace(rows)
    if new.log_level != app[LOGS].level:
        app[LOGS].set_level(new.log_level)
    _tell(changed, taken_over)
    if {"api_keys", "cors_origins"} & set(changed):
        end_unwelcome(app)
    app[JOBS].templates.read_soon()
    if "instances" in taken_over:
        _change_instances(app[CLUSTER], before, new)
    if "api_keys" in changed:
        for warning in start_warnings(settings, {}):
            logger.warning(warning)
    return True


def _now(app: web.Application, name: str) -> object:
    """The present value; that of the log level may have been changed by a signal."""
    return app[LOGS].level if name == "log_level" else getattr(app[SETTINGS], name)


def _may_change(app: web.Application, name: str) -> bool:
    """Whether that setting may change now: not the instances, if there was a single one at the
    start. Everything is passed to that as it comes, and no other one can join it."""
    return app[CLUSTER].several or name not in ("instances", "instance_names")


def _change_instances(cluster: Cluster, before: Settings, new: Settings) -> None:
    """Add what is new, then remove what is gone, so that there is always an instance."""
    old, there = set(map(canonical, before.instances)), _by_address(cluster)
    names = {canonical(url): new.name_of(place) for place, url in enumerate(new.instances)}
    here = {there[url]: name for url, name in names.items() if url in there}
    with _told("the names"):
        cluster.membership.rename({one: name for one, name in here.items() if one.name != name})
    for url in new.instances:
        if canonical(url) not in there and canonical(url) not in old:
            with _told(url):
                cluster.membership.add(url, names[canonical(url)])
    for gone in old - set(map(canonical, new.instances)):
        if (instance := there.get(gone)) is not None:
            cluster.spawn(_remove(cluster, instance))


async def _remove(cluster: Cluster, instance: Instance) -> None:
    with _told(instance.host):
        await cluster.membership.remove(instance)


@contextmanager
def _told(what: object) -> Iterator[None]:
    """To be entered around a change, which is refused, and that logged, if it does not fit to what
    an operator has changed meanwhile."""
    try:
        yield
    except MembershipError as error:
        logger.error("not as in the configuration: {}: {}", what, error.message)


def _by_address(cluster: Cluster) -> dict[URL, Instance]:
    return {canonical(one.url): one for one in cluster.instances}


def _tell(changed: list[str], taken_over: Collection[str]) -> None:
    taken = [_NAMES[name] for name in changed if name in taken_over]
    left = [_NAMES[name] for name in changed if name not in taken_over]
    told = [f"{', '.join(taken)} taken over"] if taken else []
    told += [f"{', '.join(left)} left as before: that needs a restart"] if left else []
    level = "WARNING" if left else "INFO"
    logger.log(
        level, "the configuration was read again: {}", "; ".join(told) or "nothing has changed"
    )
