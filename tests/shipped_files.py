"""What is shipped in ``config/`` as the programs read it that it is written for."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from comfy_proxy.cli import argparse_front
from comfy_proxy.cli.table import ABOUT, COMMANDS
from comfy_proxy.settings import VARIABLES

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "config"
DEFAULTS = {variable.name: variable.default for variable in VARIABLES}


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, as Docker Compose and Prometheus do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _refuse_repeated(key.value for key, _ in node.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The document; anchors and merged keys are resolved. Raises if it cannot be parsed."""
    return yaml.load(path.read_text(encoding="utf-8"), _Loader)


def read_json(path: Path) -> Any:
    """The document. Raises if it cannot be parsed or an object has a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_repeated(key for key, _ in pairs)
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)


def read_unit(path: Path) -> dict[str, list[tuple[str, str]]]:
    """A systemd unit: section → its assignments in turn, of which a name may have several.

    Raises ValueError for a line that is none of section, assignment, comment and empty.
    """
    sections: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if section := re.fullmatch(r"\[(\w+)\]", line):
            current = sections.setdefault(section[1], [])
        elif current is not None and (assignment := re.fullmatch(r"(\w+)=(.*)", line)):
            current.append((assignment[1], assignment[2]))
        else:
            raise ValueError(f"{path}: {line!r}")
    return sections


def read_dockerfile(path: Path) -> list[tuple[str, list[str]]]:
    """Each instruction with its words: those of the JSON form, or those of a shell."""
    text = "\n".join(
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    )
    instructions = []
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        name, _, rest = line.partition(" ")
        if json_form := re.search(r"\[.*\]$", rest):
            instructions.append((name, json.loads(json_form[0])))
        else:
            instructions.append((name, shlex.split(rest)))
    return instructions


def read_nginx(path: Path) -> list[str]:
    """The words of nginx's directives, with ``{``, ``}`` and ``;``, in turn.

    Raises ValueError where a block or a directive is not ended; what they mean only nginx knows.
    """
    text = re.sub(r"(?m)(?:^|\s)#.*$", "", path.read_text(encoding="utf-8"))
    words = re.findall(r'"[^"]*"|[{};]|[^\s{};]+', text)
    depth = 0
    for before, word in zip(["", *words], words, strict=False):
        depth += {"{": 1, "}": -1}.get(word, 0)
        if depth < 0 or (word == "}" and before not in ("", ";", "{", "}")):
            raise ValueError(f"{path}: {before} {word}")
    if depth or words[-1] not in (";", "}"):
        raise ValueError(f"{path}: not ended")
    return words


def read_module(path: Path) -> str:
    """The text of an ES module, which Node can parse where it is installed."""
    if (node := shutil.which("node")) is not None:
        subprocess.run([node, "--check", path], check=True)
    return path.read_text(encoding="utf-8")


def setup_cfg() -> configparser.ConfigParser:
    """The project's metadata, requirements and entry points."""
    read = configparser.ConfigParser(interpolation=None)
    read.read_string((ROOT / "setup.cfg").read_text(encoding="utf-8"))
    return read


def supported_pythons() -> set[str]:
    """Like 3.11: those of the classifiers."""
    return set(re.findall(r"Python :: (3\.\d+)$", setup_cfg()["metadata"]["classifiers"], re.M))


def is_setting(name: str) -> bool:
    """Whether the proxy reads this environment variable."""
    return name in DEFAULTS or re.fullmatch(r"COMFYUI_(?:HOST|NAME)_[1-9]\d*", name) is not None


def check_command(words: list[str]) -> None:
    """The first word is our command, and it takes the others; or the test fails."""
    entry_points = setup_cfg()["options.entry_points"]["console_scripts"]
    assert f"\n{Path(words[0]).name} = " in entry_points
    try:
        argparse_front.parse(COMMANDS, words[1:], ABOUT)
    except SystemExit as error:
        raise AssertionError(words) from error


def _refuse_repeated(keys: Any) -> None:
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise ValueError(f"twice in one mapping: {repeated}")
