"""What the proxy is started with: ComfyUI's arguments, the environment and `comfy_proxy.toml`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .own_address import is_own
from .settings_file import NAME, read_settings_file

OLDEST_PYTHON = (3, 11)
"""The oldest Python that comfyui-proxy runs with."""
SHUTDOWN_TIMEOUT_MS = 2000
"""SHUTDOWN_TIMEOUT unless the user sets it: whoever ends ComfyUI waits for the proxy too, and the
next ComfyUI wants the port."""

_NOT_FOR_THE_PROXY = ("PYTHONHOME", "COMFY_PROXY_PYTHON", "COMFY_PROXY_CHILD_PID")
_HOST = re.compile(r"COMFYUI_HOST_([1-9][0-9]*)")


class NotUsed(Exception):  # noqa: N818 (no error: most of its reasons are as the user wants it)
    """ComfyUI is to listen by itself; the text says why, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The command of the proxy and its environment, in which COMFYUI_HOST_1 is still to be set."""

    command: tuple[str, ...]
    environment: Mapping[str, str]

    def in_front_of(self, port: int) -> dict[str, str]:
        """The environment for a ComfyUI that listens at this port of the loopback."""
        return {**self.environment, "COMFYUI_HOST_1": f"127.0.0.1:{port}"}


def read_configuration(
    args: Any,
    addresses: Sequence[tuple[str, int]],
    *,
    folder: str,
    data: str,
    environ: Mapping[str, str],
) -> Configuration:
    """The configuration of the proxy that is to listen at `addresses` (address, port).

    `args` are ComfyUI's arguments, `folder` is the plugin's, `data` the one for logs and state.
    Raises NotUsed. Looks at files and may ask the resolver: not for an event loop.
    """
    path = os.path.join(folder, NAME)
    try:
        written = read_settings_file(path)
    except ValueError as error:
        raise NotUsed(str(error)) from None
    ports = {port for _, port in addresses}
    if len(ports) != 1 or ports == {0}:
        raise NotUsed("the proxy listens at one port, which clients have to know")
    hosts, port = [address.strip() for address, _ in addresses], ports.pop()
    kept = {name: text for name, text in environ.items() if name not in _NOT_FOR_THE_PROXY}
    given = {**written, **{name: text for name, text in kept.items() if text.strip()}}
    _check_instances(given, path, hosts, port)
    command = [_python(environ), "-m", "comfy_proxy", "serve", "--supervised"]
    if os.path.exists(path):
        command += ["--config", path]
    defaults = {**_defaults(data), **_of_comfyui(args)}
    unset = {name: text for name, text in defaults.items() if name not in {**written, **given}}
    own = {"HOST": ",".join(hosts), "PORT": str(port), **_certificate(args)}
    # The folder in which ComfyUI runs has modules of common names, which are not for the proxy.
    python = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    with contextlib.suppress(OSError):  # then the proxy says what it cannot write
        os.makedirs(data, exist_ok=True)
    return Configuration(command=tuple(command), environment={**kept, **unset, **own, **python})


def _check_instances(given: Mapping[str, str], path: str, hosts: list[str], port: int) -> None:
    """Raises NotUsed unless `given` names others than this ComfyUI, and those alone."""
    instances = {name: text for name, text in given.items() if _HOST.fullmatch(name) and text}
    if "COMFYUI_HOST_1" in instances:
        raise NotUsed("COMFYUI_HOST_1 is this ComfyUI itself; the others begin with COMFYUI_HOST_2")
    if not instances:
        raise NotUsed(
            f"no other instance is configured; comfyui_host_2 in {path} names one, or"
            " COMFYUI_HOST_2 in the environment"
        )
    for name, text in instances.items():
        if is_own(text, hosts, port):
            raise NotUsed(f"{name} ({text}) is this ComfyUI itself, so another one has the proxy")


def _python(environ: Mapping[str, str]) -> str:
    """COMFY_PROXY_PYTHON, else ComfyUI's own. Raises NotUsed if that one cannot run the proxy."""
    chosen = environ.get("COMFY_PROXY_PYTHON", "").strip()
    if chosen:
        return chosen
    remedy = "or name another Python that has it by COMFY_PROXY_PYTHON"
    if sys.version_info < OLDEST_PYTHON:
        raise NotUsed(
            f"ComfyUI runs with Python {_version(sys.version_info)}, comfyui-proxy needs"
            f" {_version(OLDEST_PYTHON)} or newer: update ComfyUI's Python, {remedy}"
        )
    if importlib.util.find_spec("comfy_proxy") is None:
        raise NotUsed(
            f"comfyui-proxy is not installed in ComfyUI's Python: {sys.executable}"
            f" -m pip install comfyui-proxy (or the folder of a checkout), {remedy}"
        )
    return sys.executable


def _defaults(data: str) -> dict[str, str]:
    """What is set unless the user sets it."""
    return {
        "LOG_DIRECTORY": os.path.join(data, "logs"),
        "STATE_FILE": os.path.join(data, "state.sqlite"),
        "SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT_MS),
    }


def _of_comfyui(args: Any) -> dict[str, str]:
    """What ComfyUI was told of clients, as settings of the proxy."""
    settings: dict[str, str] = {}
    if origin := getattr(args, "enable_cors_header", None):
        settings["CORS_ORIGINS"] = str(origin)
    if megabytes := getattr(args, "max_upload_size", None):
        settings["MAX_UPLOAD_SIZE"] = str(round(megabytes * 1024 * 1024))
    return settings


def _certificate(args: Any) -> dict[str, str]:
    """ComfyUI speaks https if it has both, and so does the proxy."""
    key, certificate = getattr(args, "tls_keyfile", None), getattr(args, "tls_certfile", None)
    if not (key and certificate):
        return {}
    return {"TLS_CERT": os.path.abspath(certificate), "TLS_KEY": os.path.abspath(key)}


def _version(numbers: Iterable[Any]) -> str:
    major, minor, *_ = numbers
    return f"{major}.{minor}"
