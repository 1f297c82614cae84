"""Keys as settings: where they stand, how long they must be, and names that are nearly theirs.

No message has a key in it, nor the value of a variable: only names, places and lengths.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from comfy_proxy.addresses import are_loopback
from comfy_proxy.instance_settings import is_numbered

MIN_KEY_LENGTH: Final = 16
"""Characters of a key at least. Of a shorter one is warned where only this machine can try keys;
elsewhere the proxy does not start with it: it could be found by trying."""
_NEARLY: Final = 0.87
"""How like a setting's name another name must be (difflib's ratio) to be taken for a slip of it:
``COMFY_HOST_1`` is, ``COMFYUI_PATH`` and ``COMFYUI_PORT``, which other programs have, are not."""
_OF_EVERYBODY: Final = frozenset({"HOST", "PORT"})
"""Too short for that: ``HOSTS`` may be anybody's."""
_KEYS: Final = ("API_KEYS", "API_KEYS_FILE")


def read_keys(path: Path) -> tuple[str, ...]:
    """One key a line; empty lines, and those that begin with ``#``, are none.

    Raises ValueError if there is none: a file that was emptied must not open the door.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{path} is no text in UTF-8") from None
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise ValueError(f"{path} has no key in it")
    return keys


def short_keys(keys: Iterable[str]) -> list[str]:
    """A line for each key of less than MIN_KEY_LENGTH characters, by its number."""
    return [
        f"API_KEYS: key {number} has {len(key)} characters; a key of less than {MIN_KEY_LENGTH}"
        " can be found by trying (openssl rand -hex 32 makes a good one)"
        for number, key in enumerate(keys, 1)
        if len(key) < MIN_KEY_LENGTH
    ]


def key_problems(
    host: str, keys: Collection[str], environ: Mapping[str, str], known: Collection[str]
) -> list[str]:
    """What keeps the proxy from listening at ``host``, where others than this machine may come."""
    if are_loopback(host):
        return []
    if keys:
        return short_keys(keys)
    return [
        f"{name}: the name is {right}; without keys anybody who can reach {host or 'this machine'}"
        " could run workflows and read all pictures"
        for name, right in misspelt(environ, known).items()
        if right in _KEYS
    ]


def misspelt(environ: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """Variables that are set and nearly have the name of a setting → that name.

    ``known`` are the settings' names. A slip leaves the first letter as it is.
    """
    names = [*(set(known) - _OF_EVERYBODY), "COMFYUI_HOST_1", "COMFYUI_NAME_1"]
    squashed = {_squashed(name): name for name in names}
    found = {}
    for name, text in environ.items():
        if name in known or is_numbered(name) or not text.strip():
            continue
        near = squashed.get(_squashed(name))
        same_begin = [one for one in names if one[0] == name[:1].upper()]
        matches = [near] if near else get_close_matches(name.upper(), same_begin, 1, _NEARLY)
        if matches:
            found[name] = matches[0]
    return found


def _squashed(name: str) -> str:
    """``apikey``, ``API-KEYS`` and ``API_KEYS`` are the same."""
    return name.upper().replace("_", "").replace("-", "").rstrip("S")
