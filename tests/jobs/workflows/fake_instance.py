"""An instance that can do what a test says, pictures for it, and the graphs that come of both."""

from __future__ import annotations

from typing import Any

from comfy_proxy.jobs.media.file_info import PictureInfo
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.jobs.workflows.graph import Graph
from comfy_proxy.jobs.workflows.workflow import Workflow

CORE = (
    "LoadImage", "ImageScale", "UpscaleModelLoader", "ImageUpscaleWithModel", "InvertMask",
    "JoinImageWithAlpha", "MaskToImage", "ImageToMask", "ImageFromBatch", "PreviewImage",
    "SaveImage", "SaveImageWebsocket",
)  # fmt: skip


class Instance:
    """What a fake instance can do: class names, and the enums of some inputs."""

    def __init__(self, *extra: str, without: tuple[str, ...] = (), **choices: tuple[str, ...]):
        self.classes = (set(CORE) | set(extra)) - set(without)
        self._choices = {"UpscaleModelLoader__model_name": (), **choices}

    def has_class(self, name: str) -> bool:
        return name in self.classes

    def declares(self, class_name: str, input_name: str) -> bool:
        return class_name in CORE

    def is_output(self, name: str) -> bool | None:
        return name.startswith(("Save", "Preview")) if name in CORE else None

    def choices(self, class_name: str, input_name: str) -> tuple[str, ...] | None:
        return self._choices.get(f"{class_name}__{input_name}")


WITH_MODEL: dict[str, tuple[str, ...]] = {
    "UpscaleModelLoader__model_name": ("2x.pth", "RealESRGAN_x4plus.pth")
}


def picture(width: int = 100, height: int = 60, **values: Any) -> PictureInfo:
    known: dict[str, Any] = {"has_alpha": False, "frames": 1, **values}
    return PictureInfo(
        format="PNG", media_type="image/png", extension="png", width=width, height=height, **known
    )


def shipped(name: str) -> Workflow:
    return load_workflows(None).get(name)


def graph(name: str, instance: Instance, info: PictureInfo, **raw: Any) -> Graph:
    workflow = shipped(name)
    infos = {"image": info}
    values = workflow.parse_parameters(raw)
    return workflow.choose(instance, infos, values).build({"image": "up.png"})


def classes(built: Graph) -> list[str]:
    return [node["class_type"] for node in built.prompt.values()]


def assert_sound(built: Graph) -> None:
    """Every link leads somewhere, every node is needed for the output, the upload is loaded."""
    reached: set[str] = set()
    waiting = list(built.output_nodes)
    while waiting:
        node = waiting.pop()
        reached.add(node)
        links = built.prompt[node]["inputs"].values()
        waiting += [value[0] for value in links if isinstance(value, list)]
    assert reached == set(built.prompt)
    loaders = [node for node in built.prompt.values() if node["class_type"] == "LoadImage"]
    assert [node["inputs"]["image"] for node in loaders] == ["up.png"]
