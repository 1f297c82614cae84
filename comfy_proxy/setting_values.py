"""How the text of a setting is read; what cannot be read raises ValueError with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``minimum`` to ``maximum``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if not minimum <= value <= maximum:
            raise ValueError(f"{value} is not between {minimum} and {maximum}")
        return value

    return parse


def milliseconds(minimum: int, maximum: int = 86_400_000) -> Callable[[str], float]:
    """A parser of milliseconds, to seconds."""
    parse = integer(minimum, maximum)
    return lambda text: parse(text) / 1000


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser of one of these words, in whatever case."""

    def parse(text: str) -> str:
        value = text.strip().lower()
        if value not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return value

    return parse


def true_or_false(text: str) -> bool:
    """``true`` or ``false``, in whatever case."""
    return one_of("true", "false")(text) == "true"


def some_of(*words: str) -> Callable[[str], frozenset[str]]:
    """A parser of ``false`` (none of these words), ``true`` (all), or a comma list of some of them,
    in whatever case."""

    def parse(text: str) -> frozenset[str]:
        parts = [part.strip().lower() for part in text.split(",") if part.strip()]
        if parts in (["false"], ["true"]):
            return frozenset(words if parts == ["true"] else ())
        if not parts or not set(parts) <= set(words):
            raise ValueError(f"{text!r} is not true, false, or some of {', '.join(words)}")
        return frozenset(parts)

    return parse


def path(text: str) -> Path:
    """A path; ``~`` is the home directory."""
    try:
        return Path(text.strip()).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r} names the home of a user that there is not") from None


def directory(text: str) -> Path:
    """The path of a directory that there is."""
    found = path(text)
    if not found.is_dir():
        raise ValueError(f"{text!r} is not a directory")
    return found
