"""The prefix of an instance goes in and out of names, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from comfy_proxy.gateway.files.file_name import FileName, annotated, file_at, split_annotated
from comfy_proxy.gateway.files.instance_prefix import prefix_outputs, split_prefix, with_prefix

IDS = ("1", "2")


@pytest.mark.parametrize(
    ("plain", "marked"), [("", "@1"), ("a/b", "@1/a/b"), (r"a\b", r"@1/a\b"), ("@x", "@1/@x")]
)
def test_a_prefix_goes_in_and_comes_out(plain: str, marked: str) -> None:
    """What ``with_prefix`` writes, ``split_prefix`` reads."""
    assert with_prefix(plain, "1") == marked
    assert split_prefix(marked, IDS) == ("1", plain)


@pytest.mark.parametrize(
    ("subfolder", "inner"),
    [("@2/", ""), ("@2//a", "a"), (r"@2\a", "a"), (r"@2\\a\b", r"a\b"), ("@2///", "")],
)
def test_other_spellings_of_a_prefix(subfolder: str, inner: str) -> None:
    """Doubled and Windows separators end a prefix, and what is left is never absolute."""
    assert split_prefix(subfolder, IDS) == ("2", inner)


@pytest.mark.parametrize(
    "subfolder",
    [
        *("", "a", "@", "@3", "@3/a", "@12", "a/@1", "/@1", "./@1", "@1x/a", "1"),
        *("@1/..", r"@1\..\a", "@1/a/../../b", "@1/../../etc", "../@1"),
    ],
)
def test_what_is_no_prefix_stays_as_it_is(subfolder: str) -> None:
    """Unknown ids, own folders and climbing paths have no prefix."""
    assert split_prefix(subfolder, IDS) == (None, subfolder)


def picture(subfolder: str, kind: str = "output") -> dict[str, Any]:
    return {"filename": "x.png", "subfolder": subfolder, "type": kind}


def test_outputs_are_prefixed_wherever_they_are() -> None:
    """Every file of type output or temp gets the prefix, at any depth, and its other keys stay."""
    output = {
        "images": [picture(""), picture("a", "temp"), picture("", "input")],
        "gifs": [{**picture("v"), "format": "video/mp4", "nested": {"one": [picture("")]}}],
        "animated": [False],
        "text": ["a"],
        "no_name": {"type": "output", "subfolder": ""},
        "odd": [{"filename": 1, "type": "output"}, {"filename": "x", "type": ["output"]}],
    }
    before = copy.deepcopy(output)

    marked = prefix_outputs(output, "2")

    assert output == before
    assert [item["subfolder"] for item in marked["images"]] == ["@2", "@2/a", ""]
    assert marked["gifs"] == [
        {**picture("@2/v"), "format": "video/mp4", "nested": {"one": [picture("@2")]}}
    ]
    assert {key: marked[key] for key in ("animated", "text", "no_name", "odd")} == {
        key: before[key] for key in ("animated", "text", "no_name", "odd")
    }


def test_a_folder_that_looks_like_a_prefix_is_prefixed_too() -> None:
    """A client's own prefix ``@1/x`` at instance 2 is a folder there, not instance 1's file."""
    (marked,) = prefix_outputs([picture("@1/a")], "2")
    assert marked["subfolder"] == "@2/@1/a"
    assert split_prefix(marked["subfolder"], IDS) == ("2", "@1/a")


def test_only_the_kinds_that_are_not_shared_are_prefixed() -> None:
    """Where all instances share a directory its files have one name."""
    outputs = [picture(""), picture("", "temp")]
    assert [f["subfolder"] for f in prefix_outputs(outputs, "2", {"temp"})] == ["", "@2"]


def test_an_output_without_a_subfolder_gets_one() -> None:
    """A missing or null subfolder is the root."""
    bare = {"filename": "x.png", "type": "temp"}
    assert prefix_outputs(bare, "1") == {**bare, "subfolder": "@1"}
    assert prefix_outputs({**bare, "subfolder": None}, "1") == {**bare, "subfolder": "@1"}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("x.png", FileName(filename="x.png", type="input")),
        ("sub/x.png", FileName(filename="x.png", subfolder="sub", type="input")),
        ("x.png [output]", FileName(filename="x.png", type="output")),
        ("@2/x.png [temp]", FileName(filename="x.png", subfolder="@2", type="temp")),
        ("@2/a/x (1).png [output]", FileName(filename="x (1).png", subfolder="@2/a")),
    ],
)
def test_annotated_names_there_and_back(name: str, file: FileName) -> None:
    """A graph's name is split into the file it means, and made of it again."""
    assert split_annotated(name) == file
    assert annotated(file) == name


def test_an_input_may_say_so() -> None:
    """``[input]`` is the default spelt out, and ComfyUI asks for no blank before the bracket."""
    assert split_annotated("x.png [input]") == FileName(filename="x.png", type="input")
    assert split_annotated("x.png_[temp]") == FileName(filename="x.png", type="temp")


@pytest.mark.parametrize(
    "spelling",
    [("x.png", "a/b"), ("x.png", "a/b/"), ("x.png", "a//b"), ("b/x.png", "a"), ("./x.png", "a/b")],
)
def test_one_name_for_all_spellings(spelling: tuple[str, str]) -> None:
    """Spellings of one path are one key."""
    assert file_at(*spelling) == FileName(filename="x.png", subfolder="a/b")
