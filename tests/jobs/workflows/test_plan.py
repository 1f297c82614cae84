"""Plans: a graph filled in, made anew for each job, with one frame of an animation."""

from __future__ import annotations

import copy

from fake_instance import Instance, graph, picture, shipped


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


def test_building_leaves_the_template_alone() -> None:
    """Two jobs never share a graph."""
    workflow = shipped("upscale-image")
    before = copy.deepcopy(workflow.variants)
    plan = workflow.choose(Instance(), {"image": picture(frames=2)}, workflow.parse_parameters({}))
    plan.build({"image": "a.png"}).prompt["1"]["inputs"]["image"] = "changed"
    assert plan.build({"image": "b.png"}).prompt["1"]["inputs"]["image"] == "b.png"
    assert workflow.variants == before
