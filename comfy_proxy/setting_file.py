"""The TOML file of ``--config``."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path

from comfy_proxy.instance_settings import is_numbered


def read_toml(path: Path, known: Collection[str], problems: list[str]) -> dict[str, str]:
    """The file's values as text by variable name; what is wrong is added to ``problems``.

    As text, because the table of variables parses text: the file and the environment obey one rule.
    ``known`` are the names of that table.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, RecursionError, ValueError) as error:  # ValueError: no UTF-8, no TOML
        problems.append(f"{path}: {error}")
        return {}
    values: dict[str, str] = {}
    for key, value in document.items():
        name = key.upper()
        if key != key.lower() or (name not in known and not is_numbered(name)):
            problems.append(f"{path}: unknown setting {key!r}")
        elif isinstance(value, list):
            values[name] = ",".join(str(item) for item in value)
        elif isinstance(value, dict):
            problems.append(f"{path}: {key} must be a number, a text or a list")
        else:
            values[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return values
