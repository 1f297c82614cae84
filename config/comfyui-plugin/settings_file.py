"""`comfy_proxy.toml` in the plugin's folder, as far as the plugin itself has to know it."""

from __future__ import annotations

import re

NAME = "comfy_proxy.toml"

_LINE = re.compile(r"""^\s*["']?([a-z][a-z0-9_]*)["']?\s*=\s*(.*?)\s*$""", re.M)
_QUOTED = re.compile(r"""^(["'])(.*?)\1""")


def read_settings_file(path: str) -> dict[str, str]:
    """The settings that stand in the file, by their variables' names; {} if there is none.

    Only names and simple texts are looked for, line by line: the proxy reads the file itself, and
    says what is wrong in it. Python 3.10, with which ComfyUI may run, cannot read TOML. Raises
    ValueError if the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ValueError(f"{path} cannot be read: {reason}") from None
    return {name.upper(): _plain(value) for name, value in _LINE.findall(text)}


def _plain(value: str) -> str:
    quoted = _QUOTED.match(value)
    return quoted[2] if quoted else value
