"""The folder that we leave in the directories of instances, and how lists name it. Pure."""

from __future__ import annotations

from typing import Final

PROBE_FOLDER: Final = ".comfy-proxy"
"""In each directory of an instance: where it is tried whether two instances share that directory.
It is in no list that clients get, as it has nothing for them."""


def is_probe(name: object) -> bool:
    """True for the folder of the probe and for what is in it, as lists of files name them."""
    return isinstance(name, str) and name.replace("\\", "/").partition("/")[0] == PROBE_FOLDER
