"""Which files an output tells of, as objects and as texts that look like paths."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_proxy.gateway.files.file_name import FileName, one_spelling
from comfy_proxy.gateway.files.told_files import MAX_TEXTS, told_files


def names(output: Any) -> set[str]:
    """``type:folder/name`` of each."""
    return {
        f"{one.type}:{one.subfolder}/{one.filename}".replace(":/", ":")
        for one in told_files(output)
    }


def anywhere(*paths: str) -> set[str]:
    return {f"{kind}:{path}" for path in paths for kind in ("output", "temp")}


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ({"result": ["3d/x.glb", None]}, anywhere("3d/x.glb")),
        ({"result": ["3d\\a\\x.glb", {"position": [0, 1.5]}]}, anywhere("3d/a/x.glb")),
        ({"text": ["x.txt"]}, anywhere("x.txt")),
        ({"text": "deep/./er//x.txt"}, anywhere("deep/er/x.txt")),
        ({"a": [{"b": [["x.wav"]]}]}, anywhere("x.wav")),
        ({"text": [" x.txt\n"]}, anywhere("x.txt")),
        ({"text": ["einfach schön.png"]}, anywhere("einfach schön.png")),
        (["3d/x.glb [output]"], {"output:3d/x.glb"}),
        (["x.png [temp]"], {"temp:x.png"}),
        (["x.png [input]"], {"input:x.png"}),
        (["temp/bg.png"], {"temp:bg.png", *anywhere("temp/bg.png")}),
        (["output/3d/x.glb"], {"output:3d/x.glb", *anywhere("output/3d/x.glb")}),
        (["/opt/ComfyUI/output/3d/x.glb"], {"output:3d/x.glb"}),
        (["C:\\ComfyUI\\output\\3d\\x.glb"], {"output:3d/x.glb"}),
        (["file:///opt/ComfyUI/output/a%20b.glb"], {"output:a b.glb"}),
        (["/srv/output/results/output/x.glb"], {"output:results/output/x.glb", "output:x.glb"}),
        (["/data/results/x.glb"], anywhere("x.glb", "results/x.glb", "data/results/x.glb")),
        (["/view?filename=x.glb&subfolder=3d&type=temp"], {"temp:3d/x.glb"}),
        (["http://gpu:8188/api/view?filename=3d%2Fx.glb#y"], {"output:x.glb"}),
    ],
)
def test_a_text_that_looks_like_a_path(output: Any, told: set[str]) -> None:
    """In each directory that it may be of, by whichever separators."""
    assert names(output) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat on a mat",
        "The end.",
        "Version 1.5 is out. And now?",
        "first line\nsecond.png",
        "https://example.com/x.png",
        "data:image/png;base64,AAAA.BBBB/",
        "../x.png",
        "a/../../x.png",
        "a\\..\\..\\x.png",
        "3d/mesh",
        "image/gif",
        "x.png\0",
        "\ud800.png",
        "x" * 5000 + ".png",
        "/",
        "[output]",
        "view?filename=../x.png",
        "view?filename=",
        "view?",
    ],
)
def test_a_text_that_is_none(text: str) -> None:
    """Prose, addresses elsewhere and what climbs name no file."""
    assert told_files({"text": [text]}) == {}


def test_objects_name_their_files_in_full() -> None:
    """With what else stands beside it, relative to its folder."""
    gif = {
        "filename": "a.gif",
        "subfolder": "v",
        "type": "temp",
        "format": "image/gif",
        "workflow": "a.png",
        "fullpath": "/opt/ComfyUI/temp/v/a.gif",
    }
    assert list(told_files({"gifs": [gif]}).values()) == [True, False]
    assert names({"gifs": [gif]}) == {"temp:v/a.gif", "temp:v/a.png"}
    assert names({"images": [{"filename": "x.png"}]}) == {"output:x.png"}
    odd = [{"filename": 5, "subfolder": "x.png"}, {"filename": "y.png", "subfolder": None}]
    assert names(odd) == {"output:y.png", *anywhere("x.png")}


@pytest.mark.parametrize("output", [None, 5, True, "", [], {}, {"a": None}, [[[{}]]]])
def test_what_tells_nothing(output: Any) -> None:
    """Any JSON may be an output."""
    assert told_files(output) == {}


def test_deep_outputs_are_read() -> None:
    """However deep; the depth of an output is its node's."""
    output: Any = "x.png"
    for _ in range(100_000):
        output = [output]
    assert names(output) == anywhere("x.png")


def test_of_many_texts_some_are_read_and_all_objects() -> None:
    """A list of words does not crowd out the records; the files of a long batch all count."""
    assert len(told_files([f"{n}.png" for n in range(10_000)])) == 2 * MAX_TEXTS
    assert len(told_files([{"filename": f"{n}.png"} for n in range(10_000)])) == 10_000


def test_separators_of_windows_are_another_spelling() -> None:
    """A record is found by either."""
    told = FileName(filename="x.glb", subfolder="3d/a")
    for name, folder in (("x.glb", "3d\\a"), ("a\\x.glb", "3d"), ("x.glb", "3d/a")):
        assert one_spelling(FileName(filename=name, subfolder=folder)) == told
