"""Exported graphs: parameters that are found, and those that a mapping names."""

from __future__ import annotations

import copy
from pathlib import Path

from fake_instance import Instance, picture
from template_files import RAW, write

from comfy_proxy.jobs.workflows.directory import load_workflows


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
