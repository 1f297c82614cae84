"""One address in front of several ComfyUI instances: a job API and a drop-in URL.

``create_app()`` makes an aiohttp application, ``setup(app)`` makes an existing one carry the
proxy, ``Settings`` and ``load_settings`` are the configuration; the command is ``comfy-proxy``.
"""

from comfy_proxy.app import create_app, setup
from comfy_proxy.settings import Settings, load_settings
from comfy_proxy.version import __version__

__all__ = ["Settings", "__version__", "create_app", "load_settings", "setup"]
