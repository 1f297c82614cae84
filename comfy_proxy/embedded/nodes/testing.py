"""Nodes for tests only: one that takes its time, one that fails, one that loads a folder, one that
tells what it is told to, and two that hand a video through. Off unless asked for."""

import json
import shutil
import time
from pathlib import Path
from typing import NoReturn

import numpy as np

from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.nodes.node_class import Context, Json, NodeClass, Result, entry, number
from comfy_proxy.embedded.nodes.sources import FILE_INPUT, file_exists, load_image

STEP_S = 0.05  # seconds between two steps of TimedPass's bar
MODULE = "custom_nodes.comfy_proxy_test_nodes"


def timed_pass(context: Context, inputs: Json) -> Result:
    """Hand the picture through after `seconds`, the bar moving about every 50 ms.

    Each step ends at a time counted from the start, so that late steps do not add up.
    """
    seconds = inputs["seconds"]
    steps = max(1, int(seconds / STEP_S))
    start = time.monotonic()
    for step in range(1, steps + 1):
        context.wait_until(start + seconds * step / steps)
        context.progress(step, steps)
    return Result(outputs=(inputs["image"],))


def fail(_context: Context, _inputs: Json) -> NoReturn:
    """Fail as a GPU without memory left does."""
    raise RuntimeError("CUDA out of memory (simulated)")


def load_folder(context: Context, inputs: Json) -> Result:
    """All pictures of a folder, which have one size, as one batch: each makes a picture of its own.

    The real class gives a list of them.
    """
    folder = context.folders.input / inputs["folder"]
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    loaded = [load_image(context, {"image": f"{inputs['folder']}/{name}"}) for name in names]
    return Result(outputs=(np.concatenate([one.outputs[0] for one in loaded]),))


def folder_fingerprint(folders: Folders, inputs: Json) -> object:
    """The names of the files: a new one is a new input."""
    return sorted(entry.name for entry in (folders.input / inputs["folder"]).iterdir())


def load_video(context: Context, inputs: Json) -> Result:
    """The path of the file; it is not opened."""
    return Result(outputs=(context.folders.annotated_path(inputs["file"]),))


def save_video(context: Context, inputs: Json) -> Result:
    """A copy among the outputs, told as ComfyUI's own node tells a video."""
    source: Path = inputs["video"]
    place = context.folders.save_place(inputs["filename_prefix"], "output", 0, 0)
    name = f"{place.stem}_{place.counter:05}_{source.suffix}"
    shutil.copyfile(source, place.directory / name)
    saved = {"filename": name, "subfolder": place.subfolder, "type": "output"}
    return Result(ui={"images": [saved], "animated": [True]})


def tell(context: Context, inputs: Json) -> Result:
    """`executed` with the JSON of `ui`; before that the texts of `files` are saved, by name."""
    for name, text in json.loads(inputs["files"]).items():
        path = context.folders.base / "output" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Result(ui=json.loads(inputs["ui"]))


SALT = number(0, 0, 2**53)
SECONDS = ["FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0, "step": 0.01}]

TESTING = (
    NodeClass(
        name="TimedPass",
        entry=entry(
            "TimedPass",
            "TimedPass",
            category="testing",
            module=MODULE,
            inputs={"image": ["IMAGE"], "seconds": SECONDS, "salt": SALT},
            outputs=("IMAGE",),
        ),
        run=timed_pass,
    ),
    NodeClass(
        name="LoadImageDataSetFromFolder",
        entry=entry(
            "LoadImageDataSetFromFolder",
            "Load Image Dataset from Folder",
            category="dataset",
            module=MODULE,
            inputs={"folder": [[], {"tooltip": "The folder to load images from."}]},
            outputs=("IMAGE",),
        ),
        run=load_folder,
        live_enums={"folder": Folders.input_subfolders},
        fingerprint=folder_fingerprint,
    ),
    NodeClass(
        name="FailNode",
        entry=entry(
            "FailNode",
            "FailNode",
            category="testing",
            module=MODULE,
            inputs={"image": ["IMAGE"], "salt": SALT},
            outputs=("IMAGE",),
        ),
        run=fail,
    ),
    NodeClass(
        name="LoadVideo",
        entry=entry(
            "LoadVideo",
            "Load Video",
            category="image/video",
            module=MODULE,
            inputs={"file": FILE_INPUT},
            outputs=("VIDEO",),
        ),
        run=load_video,
        live_enums={"file": lambda folders: folders.input_names(pictures_only=False)},
        validate={"file": file_exists},
    ),
    NodeClass(
        name="SaveVideo",
        entry=entry(
            "SaveVideo",
            "Save Video",
            category="image/video",
            module=MODULE,
            inputs={"video": ["VIDEO"], "filename_prefix": ["STRING", {"default": "video"}]},
            output_node=True,
        ),
        run=save_video,
    ),
    NodeClass(
        name="TellNode",
        entry=entry(
            "TellNode",
            "TellNode",
            category="testing",
            module=MODULE,
            inputs={
                "ui": ["STRING", {"default": "{}"}],
                "files": ["STRING", {"default": "{}"}],
                "seed": number(0, 0, 2**64 - 1),
            },
            output_node=True,
        ),
        run=tell,
    ),
)
