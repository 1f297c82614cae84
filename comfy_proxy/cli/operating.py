"""``comfy-proxy drain``, ``resume``, ``add`` and ``remove``: said to the proxy that runs."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Final

from comfy_proxy.cli.command import Command, Parameter, Values, argument, check_range, option
from comfy_proxy.cli.proxy_address import OPTIONS, find_proxy

_HELP: Final = {
    "drain": "give an instance nothing new, so that it may be restarted",
    "resume": "give an instance work again",
    "add": "have one more instance, until the proxy is restarted",
    "remove": "have one less: what waits there goes elsewhere, what runs there ends first",
}
_WAIT = option(
    "wait", "return when nothing waits or runs there, or fail after SECONDS",
    type=float, default=0.0, bare=str(math.inf), metavar="SECONDS",
)  # fmt: skip


def _known(values: Values) -> list[str]:
    """For completion, which only those ask for who have the extra cli."""
    from comfy_proxy.cli.talk import instance_names

    return instance_names(values)


def _parameters(action: str) -> tuple[Parameter, ...]:
    if action == "add":
        which = argument("instance", "host:port, or http(s)://…", required=True, metavar="ADDRESS")
        own: tuple[Parameter, ...] = (option("name", "what it is to be called", metavar="NAME"),)
    else:
        which = argument(
            "instance", "its number, or its name", required=True, metavar="ID", complete=_known
        )
        own = (_WAIT,) if action in ("drain", "remove") else ()
    if action == "remove":
        force = "at once: what runs there begins anew elsewhere"
        own = (*own, option("force", force, type=bool))
    return (which, *own, *OPTIONS)


def _change(action: str, values: Values) -> int:
    from comfy_proxy.cli.change_instance import change_instance

    wait_s = getattr(values, "wait", 0.0)
    check_range("--wait", wait_s, 0, math.inf)
    return asyncio.run(
        change_instance(
            action,
            values.instance,
            proxy=find_proxy(values),
            wait_s=wait_s,
            name=getattr(values, "name", None),
            force=getattr(values, "force", False),
            say=print,
        )
    )


COMMANDS = tuple(
    Command(name=action, help=text, run=partial(_change, action), parameters=_parameters(action))
    for action, text in _HELP.items()
)
