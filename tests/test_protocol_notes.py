"""Each "trap N" of a comment is a section of ``comfy_proxy/cluster/PROTOCOL.md``."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_NOTES = _ROOT / "comfy_proxy" / "cluster" / "PROTOCOL.md"
_REFERENCE = re.compile(r"\btraps?\s+(\d+)(?:\s+(?:and|or)\s+(\d+))?", re.IGNORECASE)


def _sections() -> list[int]:
    return [
        int(n) for n in re.findall(r"^## Trap (\d+): \S", _NOTES.read_text("utf-8"), re.MULTILINE)
    ]


def test_the_traps_are_numbered_from_one_without_a_gap() -> None:
    """So that a number names one section for ever."""
    assert _sections() == list(range(1, len(_sections()) + 1))
    assert _sections(), "PROTOCOL.md has no sections"


def test_every_trap_that_a_comment_names_is_described() -> None:
    """Whoever follows the number finds what ComfyUI does there."""
    known = set(_sections())
    references = [
        (source.relative_to(_ROOT).as_posix(), int(number))
        for folder in ("comfy_proxy", "tests", "scripts")
        for source in sorted((_ROOT / folder).rglob("*.py"))
        for match in _REFERENCE.finditer(source.read_text("utf-8"))
        for number in match.groups()
        if number is not None
    ]
    assert references, "no comment names a trap: is the pattern wrong?"
    assert [one for one in references if one[1] not in known] == []
