"""The directories of one worker: input, output, temp and user, laid out as in ComfyUI."""

import mimetypes
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

ANNOTATIONS = {" [output]": "output", " [input]": "input", " [temp]": "temp"}


@dataclass(frozen=True, kw_only=True)
class SavePlace:
    """Where the next picture of a prefix goes: `directory / f"{stem}_{counter:05}_.png"`."""

    directory: Path
    stem: str
    counter: int
    subfolder: str


class Folders:
    """Every path of a worker. `base_directory` is made if it is missing; `temp` is emptied."""

    def __init__(self, base_directory: Path) -> None:
        self.base = Path(os.path.realpath(base_directory))
        self.user = self.base / "user" / "default"
        self._by_type = {name: self.base / name for name in ("input", "output", "temp")}
        self.prepare()

    def prepare(self) -> None:
        """Empty `temp` as ComfyUI does at every start; input and output stay."""
        shutil.rmtree(self._by_type["temp"], ignore_errors=True)
        for directory in self._by_type.values():
            directory.mkdir(parents=True, exist_ok=True)

    def wipe(self) -> None:
        """Forget every file, as if the disk were new."""
        for directory in (*self._by_type.values(), self.user):
            shutil.rmtree(directory, ignore_errors=True)
        self.prepare()

    def by_type(self, folder_type: str) -> Path | None:
        """The directory of `input`, `output` or `temp`; None for any other word."""
        return self._by_type.get(folder_type)

    @property
    def input(self) -> Path:
        return self._by_type["input"]

    def annotated(self, name: str) -> tuple[str, Path | None]:
        """Split `x.png [output]` into the bare name and the directory it names, if it names one."""
        for annotation, folder_type in ANNOTATIONS.items():
            if name.endswith(annotation.strip()):
                return name[: -len(annotation)], self._by_type[folder_type]
        return name, None

    def annotated_path(self, name: str) -> Path:
        """The file a graph means by `name`; without an annotation it is one of the inputs."""
        bare, directory = self.annotated(name)
        return (directory or self.input) / bare

    def input_names(self, *, pictures_only: bool) -> list[str]:
        """Names directly in the input directory, sorted: the live enum of LoadImage."""
        names = [entry.name for entry in os.scandir(self.input) if entry.is_file()]
        return sorted(name for name in names if not pictures_only or _is_picture(name))

    def input_subfolders(self) -> list[str]:
        """Every folder below the input directory, sorted: the live enum of LoadImageDataSet…."""
        folders = [Path(root) / name for root, names, _ in os.walk(self.input) for name in names]
        return sorted(folder.relative_to(self.input).as_posix() for folder in folders)

    def save_place(self, prefix: str, folder_type: str, width: int, height: int) -> SavePlace:
        """The next free counter of a prefix; it goes on from the files on the disk (PROTOCOL.md
        trap 5).

        `prefix` may hold a subfolder and %width%, %height%, %year% … as in `get_save_image_path`.
        Raises ValueError for a prefix that leads out of the directory.
        """
        prefix = os.path.normpath(_expand(prefix, width, height))
        subfolder, stem = os.path.split(prefix)
        root = self._by_type[folder_type]
        directory = root / subfolder
        if not is_inside(root, directory):
            raise ValueError("**** ERROR: Saving image outside the output folder is not allowed.")
        directory.mkdir(parents=True, exist_ok=True)
        counters = [_counter(entry.name, stem) for entry in os.scandir(directory)]
        return SavePlace(
            directory=directory,
            stem=stem,
            counter=max(counters, default=0) + 1,
            subfolder=subfolder,
        )


def is_inside(root: Path, path: Path) -> bool:
    """Whether `path`, with its dots resolved, lies under `root` (a lexical test, as ComfyUI's)."""
    return os.path.commonpath((root, os.path.abspath(path))) == str(root)


def _is_picture(name: str) -> bool:
    kind, _ = mimetypes.guess_type(name, strict=False)
    return kind is not None and kind.startswith("image/")


def _counter(name: str, stem: str) -> int:
    """The number in `<stem>_<number>_…`, 0 if the name is another prefix's or holds none."""
    if not name.startswith(f"{stem}_"):
        return 0
    digits = name[len(stem) + 1 :].split("_")[0]
    return int(digits) if digits.isdecimal() else 0


def _expand(prefix: str, width: int, height: int) -> str:
    if "%" not in prefix:
        return prefix
    now = time.localtime()
    values = {"width": str(width), "height": str(height), "year": str(now.tm_year)}
    fields = ("month", "tm_mon"), ("day", "tm_mday"), ("hour", "tm_hour")
    for name, field in (*fields, ("minute", "tm_min"), ("second", "tm_sec")):
        values[name] = f"{getattr(now, field):02}"
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    return prefix
