"""Workflows: parameters, the choice of a variant, the graphs that come out, templates on disk."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from comfy_proxy.errors import (
    InvalidFieldError,
    SettingsError,
    WorkflowUnavailableError,
)
from comfy_proxy.jobs.file_info import PictureInfo
from comfy_proxy.jobs.prompt_execution import Graph
from comfy_proxy.jobs.workflows.directory import load_workflows
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


# --- parameters ---------------------------------------------------------------------------


def test_defaults_are_the_contract_s() -> None:
    """What is not given has the contract's default, quality has none."""
    assert shipped("remove-background").parse_parameters({}) == {"crop": True, "format": "PNG"}
    assert shipped("upscale-image").parse_parameters({}) == {"scale": 2, "format": "PNG"}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"format": "webp"}, {"format": "WEBP"}),
        ({"crop": "No"}, {"crop": False}),
        ({"crop": True}, {"crop": True}),
        ({"crop": 0}, {"crop": False}),
        ({"crop": "on"}, {"crop": True}),
        ({"scale": " 1.5 "}, {"scale": 1.5}),
        ({"scale": 8}, {"scale": 8.0}),
        ({"quality": "100"}, {"quality": 100}),
        ({"quality": 7.0}, {"quality": 7}),
    ],
)
def test_text_and_json_values_parse_alike(raw: dict[str, Any], expected: dict[str, Any]) -> None:
    """A value means the same as a form's text and as JSON."""
    values = shipped("upscale-remove-bg").parse_parameters(raw)
    assert expected.items() <= values.items()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "TIFF"), ("format", ""), ("crop", "maybe"), ("crop", 2), ("scale", "-1"),
        ("scale", 0), ("scale", "1e9"), ("scale", "nan"), ("scale", "inf"), ("scale", "1_0"),
        ("scale", "٢"), ("scale", True), ("scale", "1e999"), ("scale", 8.1), ("quality", 0),
        ("quality", 101), ("quality", "9.5"), ("quality", "9" * 2000),
    ],
)  # fmt: skip
def test_a_value_that_does_not_parse_names_its_field(field: str, value: Any) -> None:
    """Every refused value says which parameter it was."""
    with pytest.raises(InvalidFieldError) as caught:
        shipped("upscale-remove-bg").parse_parameters({field: value})
    assert (caught.value.field, caught.value.code) == (field, "invalid_parameter")


def test_an_unknown_parameter_is_named() -> None:
    """A parameter that another workflow has is unknown here."""
    with pytest.raises(InvalidFieldError) as caught:
        shipped("upscale-image").parse_parameters({"crop": "true"})
    assert (caught.value.field, caught.value.code) == ("crop", "unknown_parameter")


# --- sizes --------------------------------------------------------------------------------


def test_the_target_is_rounded_to_whole_pixels() -> None:
    """Half a pixel is rounded up."""
    assert shipped("upscale-image").target_size({"image": picture(3, 5)}, {"scale": 1.5}) == (5, 8)


@pytest.mark.parametrize(
    ("info", "parameters", "field"),
    [
        (picture(2049, 10), {"scale": 8.0}, "scale"),
        (picture(20000, 10), {"scale": 1.0}, "scale"),
        (picture(1, 1), {"scale": 0.1}, "scale"),
        (picture(8192, 10), {"scale": 2.0, "format": "WEBP"}, "format"),
    ],
)
def test_an_impossible_target_is_refused(
    info: PictureInfo, parameters: dict[str, Any], field: str
) -> None:
    """Before anything is accepted: too large for ComfyUI or WEBP, or no pixel at all."""
    with pytest.raises(InvalidFieldError) as caught:
        shipped("upscale-image").target_size({"image": info}, parameters)
    assert caught.value.field == field


def test_the_largest_target_passes() -> None:
    """16384 pixels a side are ComfyUI's limit and allowed."""
    assert shipped("upscale-image").target_size({"image": picture(2048, 1)}, {"scale": 8.0}) == (
        16384,
        8,
    )


# --- variants and graphs ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        (Instance("LoadBackgroundRemovalModel", "RemoveBackground", "InspyrenetRembg",
                  LoadBackgroundRemovalModel__bg_removal_name=("birefnet.safetensors",)), "core"),
        (Instance("LoadBackgroundRemovalModel", "RemoveBackground", "InspyrenetRembg",
                  LoadBackgroundRemovalModel__bg_removal_name=()), "inspyrenet"),
        (Instance("InspyrenetRembg", "RMBG"), "inspyrenet"),
        (Instance("RMBG", "BiRefNetRMBG", RMBG__model=("BEN2", "RMBG-2.0")), "rmbg"),
        (Instance("BiRefNetRMBG"), "birefnet"),
    ],
)  # fmt: skip
def test_the_first_variant_that_can_run_is_used(instance: Instance, expected: str) -> None:
    """Order decides, and a loader without a model file does not count."""
    workflow = shipped("remove-background")
    plan = workflow.choose(instance, {"image": picture()}, workflow.parse_parameters({}))
    assert plan.variant == expected
    assert_sound(plan.build({"image": "up.png"}))


def test_core_background_removal_inverts_the_mask() -> None:
    """RemoveBackground's mask is 1 in the foreground, JoinImageWithAlpha wants the opposite."""
    instance = Instance(
        "LoadBackgroundRemovalModel",
        "RemoveBackground",
        LoadBackgroundRemovalModel__bg_removal_name=("other.pth", "BiRefNet.safetensors"),
    )
    prompt = graph("remove-background", instance, picture()).prompt
    assert prompt["2"]["inputs"]["bg_removal_name"] == "BiRefNet.safetensors"
    assert prompt["4"] == {"class_type": "InvertMask", "inputs": {"mask": ["3", 0]}}
    assert prompt["5"]["inputs"] == {"image": ["1", 0], "alpha": ["4", 0]}


@pytest.mark.parametrize("has_alpha", [True, False])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("model", [True, False])
@pytest.mark.parametrize("scale", [2, 0.5])
def test_upscaling_ends_at_the_exact_size(
    has_alpha: bool, frames: int, model: bool, scale: float
) -> None:
    """Whatever the model's factor, picture and mask are brought to the size that was asked."""
    instance = Instance(**WITH_MODEL) if model else Instance()
    info = picture(has_alpha=has_alpha, frames=frames)
    built = graph("upscale-image", instance, info, scale=scale)
    assert_sound(built)
    sizes = {
        (node["inputs"]["width"], node["inputs"]["height"], node["inputs"]["crop"])
        for node in built.prompt.values()
        if node["class_type"] == "ImageScale"
    }
    assert sizes == {(int(100 * scale), int(60 * scale), "disabled")}
    assert ("ImageUpscaleWithModel" in classes(built)) == (model and scale > 1)
    assert ("JoinImageWithAlpha" in classes(built)) == has_alpha
    assert classes(built).count("ImageFromBatch") == (0 if frames == 1 else 1 + has_alpha)


def test_the_model_is_chosen_by_pattern() -> None:
    """A four times model is preferred wherever it stands in the list."""
    prompt = graph("upscale-image", Instance(**WITH_MODEL), picture()).prompt
    assert prompt["2"]["inputs"]["model_name"] == "RealESRGAN_x4plus.pth"


def test_only_the_first_frame_is_worked_on() -> None:
    """Every reader of LoadImage gets one picture of the batch."""
    built = graph("upscale-image", Instance(), picture(has_alpha=True, frames=5))
    readers = [
        node["class_type"]
        for node in built.prompt.values()
        for value in node["inputs"].values()
        if value in (["1", 0], ["1", 1])
    ]
    assert sorted(readers) == ["ImageFromBatch", "MaskToImage"]


def test_both_steps_run_in_one_graph() -> None:
    """upscale-remove-bg enlarges first and cuts the subject out of that."""
    instance = Instance("InspyrenetRembg", **WITH_MODEL)
    built = graph("upscale-remove-bg", instance, picture())
    assert_sound(built)
    assert classes(built) == [
        "LoadImage", "UpscaleModelLoader", "ImageUpscaleWithModel", "ImageScale",
        "InspyrenetRembg", "SaveImageWebsocket",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("instance", "info", "by_frame"),
    [
        (Instance(), picture(999, 1000), True),
        (Instance(), picture(1000, 1000), False),
        (Instance(without=("SaveImageWebsocket",)), picture(10, 10), False),
    ],
)
def test_only_small_results_come_by_socket(
    instance: Instance, info: PictureInfo, by_frame: bool
) -> None:
    """Four megapixels and more, and instances without the node, go by file (trap 10)."""
    built = graph("upscale-image", instance, info)
    assert built.by_frame is by_frame
    expected = "SaveImageWebsocket" if by_frame else "PreviewImage"
    (node,) = built.output_nodes
    assert built.prompt[node]["class_type"] == expected


def test_building_leaves_the_template_alone() -> None:
    """Two jobs never share a graph."""
    workflow = shipped("upscale-image")
    before = copy.deepcopy(workflow.variants)
    plan = workflow.choose(Instance(), {"image": picture(frames=2)}, workflow.parse_parameters({}))
    plan.build({"image": "a.png"}).prompt["1"]["inputs"]["image"] = "changed"
    assert plan.build({"image": "b.png"}).prompt["1"]["inputs"]["image"] == "b.png"
    assert workflow.variants == before


def test_what_is_missing_is_told_by_variant() -> None:
    """An instance that can run none says which classes and model files it lacks."""
    instance = Instance(
        "LoadBackgroundRemovalModel",
        "RemoveBackground",
        LoadBackgroundRemovalModel__bg_removal_name=(),
    )
    workflow = shipped("remove-background")
    with pytest.raises(WorkflowUnavailableError) as caught:
        workflow.choose(instance, {"image": picture()}, workflow.parse_parameters({}))
    missing = caught.value.details["missing"]
    assert missing["core"] == ["a model file for LoadBackgroundRemovalModel.bg_removal_name"]
    assert missing["rmbg"] == ["RMBG"]


def test_required_classes_cover_every_graph() -> None:
    """What is to be asked of an instance includes the nodes that the builder adds."""
    required = load_workflows(None).required_classes()
    assert {"RMBG", "SaveImageWebsocket", "PreviewImage", "ImageFromBatch"} <= required


def test_conversions_follow_the_parameters() -> None:
    """crop, format and quality reach the conversion."""
    workflow = shipped("remove-background")
    values = workflow.parse_parameters({"crop": "0", "format": "jpeg", "quality": 50})
    options = workflow.convert_options(values)
    assert (options.format, options.quality, options.crop) == ("JPEG", 50, False)
    upscale = shipped("upscale-image")
    assert upscale.convert_options(upscale.parse_parameters({})).crop is False


# --- a user's own templates ---------------------------------------------------------------

RAW: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Load"}},
    "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 8}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mine"}},
}


def described(**changes: Any) -> dict[str, Any]:
    variant = {
        "name": "only",
        "graph": {key: RAW[key] for key in ("1", "2")},
        "bind": {"1.image": "$picture", "2.width": "$side"},
        "output": ["2", 0],
    }
    parameters = {"side": {"type": "integer", "minimum": 1, "default": 64}}
    return {"parameters": parameters, "variants": [variant], **changes}


def with_variant(**changes: Any) -> dict[str, Any]:
    document = described()
    document["variants"][0].update(changes)
    return document


def write(directory: Path, name: str, document: Any) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    (directory / name).write_text(text, encoding="utf-8")


def test_a_raw_export_is_accepted_as_it_is(tmp_path: Path) -> None:
    """Picture and output are found; the user's own output node is used unchanged."""
    write(tmp_path, "mine.json", RAW)
    workflow = load_workflows(tmp_path).get("mine")
    plan = workflow.choose(Instance(), {"image": picture()}, workflow.parse_parameters({}))
    built = plan.build({"image": "up.png"})
    assert (built.output_nodes, built.by_frame) == (frozenset(), False)
    expected = copy.deepcopy(RAW)
    expected["1"]["inputs"]["image"] = "up.png"
    assert built.prompt == expected


def test_a_described_template_has_its_parameters(tmp_path: Path) -> None:
    """A parameter of the file is bound into the graph; an unknown size goes by file."""
    write(tmp_path, "mine.json", described(name="resize"))
    workflow = load_workflows(tmp_path).get("resize")
    values = workflow.parse_parameters({"side": "32"})
    built = workflow.choose(Instance(), {"image": picture()}, values).build({"image": "up.png"})
    assert built.prompt["2"]["inputs"]["width"] == 32
    assert not built.by_frame


def test_an_optional_parameter_leaves_the_graph_s_value(tmp_path: Path) -> None:
    """Without a default and not given, what the author put into the graph stays."""
    write(tmp_path, "mine.json", described(parameters={"side": {"type": "integer"}}))
    workflow = load_workflows(tmp_path).get("mine")
    plan = workflow.choose(Instance(), {"image": picture()}, workflow.parse_parameters({}))
    assert plan.build({"image": "up.png"}).prompt["2"]["inputs"]["width"] == 8


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{not json", "is not JSON"),
        ([], "must be a JSON object"),
        ({"nodes": [], "links": []}, "Export (API)"),
        ({"1": RAW["1"]}, "exactly one SaveImage or PreviewImage"),
        ({"2": {"class_type": "A", "inputs": {}}, "9": RAW["9"]}, "exactly one LoadImage"),
        ({**RAW, "9": {"class_type": "SaveImage", "inputs": {"images": ["7", 0]}}}, "node '7'"),
        (described(variants=[]), "at least one variant"),
        (described(colour=1), "no field 'colour'"),
        (described(name="a/b"), "cannot be a name"),
        (described(name="upscale-image"), "another workflow"),
        (described(scale="$side2"), "scale:"),
        (described(conversions={"crop": "$side"}), "conversions.crop"),
        (described(conversions={"turn": 1}), "conversions"),
        (described(parameters={"format": {"type": "string"}}), "reserved"),
        (described(parameters={"side": {"type": "colour"}}), "type is one of"),
        (described(parameters={"side": {"type": "integer", "minimum": "a"}}), "minimum"),
        (described(parameters={"side": {"type": "enum"}}), "choices"),
        (described(parameters={"side": {"type": "integer", "default": "a"}}), "whole number"),
        (with_variant(bind={"1.image": "$picture", "5.width": "$side"}), "no node '5'"),
        (with_variant(bind={"1.image": "$picture", "2.size": "$side"}), "no input 'size'"),
        (with_variant(bind={"1.image": "$picture", "2.width": "$edge"}), "no $parameter"),
        (with_variant(bind={}), "$picture"),
        (with_variant(output=["5", 0]), "output"),
        (with_variant(output="2"), "neither SaveImage nor PreviewImage"),
        (with_variant(when={"moon": True}), "when"),
        (with_variant(graph={"nodes": []}), "Export (API)"),
        (with_variant(graph={"1": {}}), "needs a class_type"),
    ],
)
def test_a_bad_template_is_told(tmp_path: Path, document: Any, reason: str) -> None:
    """The file and the reason are named."""
    write(tmp_path, "bad.json", document)
    with pytest.raises(SettingsError) as caught:
        load_workflows(tmp_path)
    assert any(
        problem.startswith("bad.json: ") and reason in problem for problem in caught.value.problems
    )


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """One start tells about every file."""
    write(tmp_path, "a.json", "[")
    write(tmp_path, "b.json", {"nodes": []})
    write(tmp_path, "notes.txt", "ignored")
    with pytest.raises(SettingsError) as caught:
        load_workflows(tmp_path)
    assert [problem[:6] for problem in caught.value.problems] == ["a.json", "b.json"]
