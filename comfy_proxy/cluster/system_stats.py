"""What ``GET /system_stats`` tells of an instance's memory. Pure."""

from __future__ import annotations

from typing import Any

from comfy_proxy.cluster.prompt_lists import finite

_KEEPING = ("--cache-lru", "--cache-ram")


def keeps_several(stats: Any) -> bool:
    """Whether it was started with an option by which the models of several prompts are kept."""
    match stats:
        case {"system": {"argv": list(argv)}}:
            return any(str(one).partition("=")[0] in _KEEPING for one in argv)
    return False


def read_vram_total(stats: Any) -> int | None:
    """The bytes of the device on which models run; None if they are not told.

    The first device: ComfyUI lists the one that it works on before the others. On a CPU these are
    the bytes of the machine.
    """
    match stats:
        case {"devices": [{"vram_total": int() | float() as total}, *_]}:
            return int(finite(total) or 0) or None if total > 0 else None
    return None
