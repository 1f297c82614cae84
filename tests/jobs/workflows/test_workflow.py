"""Workflows: the size of the result, the choice of a variant, what is missing for all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fake_instance import WITH_MODEL, Instance, assert_sound, classes, graph, picture, shipped

from comfy_proxy.errors import InvalidFieldError, WorkflowUnavailableError
from comfy_proxy.jobs.media.file_info import PictureInfo
from comfy_proxy.jobs.workflows.directory import load_workflows


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


@pytest.mark.parametrize("factor", [1e308, 2**40, 1e-320, 0, -1, -1e308])
def test_any_factor_is_a_size_or_refused(factor: float) -> None:
    """A template may have no bounds for it: no number makes an error that is not the client's."""
    workflow = dataclasses.replace(shipped("upscale-image"), scale="$scale")
    with pytest.raises(InvalidFieldError) as caught:
        workflow.target_size({"image": picture()}, {"scale": factor})
    assert caught.value.field == "scale"


def test_the_largest_target_passes() -> None:
    """16384 pixels a side are ComfyUI's limit and allowed."""
    assert shipped("upscale-image").target_size({"image": picture(2048, 1)}, {"scale": 8.0}) == (
        16384,
        8,
    )


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
