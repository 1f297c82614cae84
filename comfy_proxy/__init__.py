"""One address in front of several ComfyUI instances: a job API and a drop-in URL.

``create_app()`` makes an aiohttp application, ``setup(app)`` makes an existing one carry the
proxy, ``Settings`` and ``load_settings`` are the configuration; the command is ``comfy-proxy``.
These names are imported when they are first used: whoever wants only ``comfy_proxy.client`` loads
nothing of the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from comfy_proxy.version import __version__

if TYPE_CHECKING:
    from comfy_proxy import keys
    from comfy_proxy.app import create_app, setup
    from comfy_proxy.settings import Settings, load_settings

__all__ = ["Settings", "__version__", "create_app", "keys", "load_settings", "setup"]

_HOMES = {
    "create_app": "comfy_proxy.app",
    "setup": "comfy_proxy.app",
    "Settings": "comfy_proxy.settings",
    "load_settings": "comfy_proxy.settings",
}


def __getattr__(name: str) -> Any:
    """The public name, imported now (PEP 562). Raises AttributeError for any other name."""
    if name == "keys":
        return import_module("comfy_proxy.keys")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
