"""All commands, in the order in which help lists them."""

from __future__ import annotations

from typing import Final

from comfy_proxy.cli.asking import COMMANDS as ASKING
from comfy_proxy.cli.command import Command
from comfy_proxy.cli.demonstration import COMMANDS as DEMONSTRATION
from comfy_proxy.cli.operating import COMMANDS as OPERATING
from comfy_proxy.cli.running import COMMANDS as RUNNING
from comfy_proxy.cli.serving import COMMANDS as SERVING
from comfy_proxy.cli.watching import COMMANDS as WATCHING

ABOUT: Final = (
    "One address in front of several ComfyUI instances: run the proxy, give it work, watch it."
)
COMMANDS: Final[tuple[Command, ...]] = (
    *SERVING,
    *RUNNING,
    *ASKING,
    *WATCHING,
    *OPERATING,
    *DEMONSTRATION,
)
