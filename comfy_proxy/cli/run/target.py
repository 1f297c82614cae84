"""Where results go: what ``-o`` names, looked at before anything is run."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from comfy_proxy.cli.command import EXIT_USAGE, CommandError

STANDARD_OUTPUT: Final = ("-", "/dev/stdout")


@dataclass(frozen=True, kw_only=True)
class Target:
    """``folder``, ``file`` or ``stream`` (a FIFO or device, which takes one result); of none of
    them, standard output."""

    folder: Path | None = None
    file: Path | None = None
    stream: Path | None = None

    @property
    def is_stream(self) -> bool:
        return self.folder is None and self.file is None

    @property
    def is_standard_output(self) -> bool:
        return not (self.folder or self.file or self.stream)


def find_target(text: str, items: int) -> Target:
    """What ``text`` means for so many items. A folder is made. Raises CommandError (exit code 2)
    if results cannot be kept there: they would be a GPU's time for nothing."""
    if not text:
        raise CommandError("-o is empty: it names a folder or a file.", code=EXIT_USAGE)
    path = Path(text)
    try:
        return (
            _standard_output(text, items) if text in STANDARD_OUTPUT else _found(path, text, items)
        )
    except OSError as error:
        message = f"{error.filename or path}: {error.strerror}"
        raise CommandError(message, code=EXIT_USAGE) from None


def _standard_output(text: str, items: int) -> Target:
    if items > 1:
        message = f"-o {text} takes one result, and these are {items}: name a folder."
        raise CommandError(message, code=EXIT_USAGE)
    return Target()


def _found(path: Path, text: str, items: int) -> Target:
    if text.endswith(("/", "\\")) or path.is_dir() or items > 1:
        if path.exists() and not path.is_dir():
            why = f", which {items} results need" if items > 1 else ""
            raise CommandError(f"{path} is there, and is no folder{why}.", code=EXIT_USAGE)
        path.mkdir(parents=True, exist_ok=True)
        _check_writable(path)
        return Target(folder=path)
    if path.exists() and not path.is_file():
        if not os.access(path, os.W_OK):
            raise CommandError(f"{path} cannot be written to.", code=EXIT_USAGE)
        return Target(stream=path)
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.absolute().parent
    if not folder.is_dir():
        shown = folder if path.is_symlink() else path.parent
        raise CommandError(f"there is no folder {shown}.", code=EXIT_USAGE)
    _check_writable(folder)
    return Target(file=path)


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"{folder} cannot be written to: {error.strerror}."
        raise CommandError(message, code=EXIT_USAGE) from None
