"""cluster/planning/work.py: which models a graph names, what drives its time, what it reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
from cluster_harness import node
from hypothesis import given
from hypothesis import strategies as st

from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.planning.work import (
    MAX_NAME_CHARS,
    MAX_READS,
    MAX_WRITES,
    Work,
    names_result_of,
    work_of,
)


def describe(**inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}}


CHOICE, EMPTY, TEXT = [["a", "b"], {}], ["COMBO", {"options": []}], ["STRING", {}]
CATALOG = NodeCatalog.from_json(
    {
        "Checkpoint": describe(ckpt_name=CHOICE),
        "Patch": describe(name=CHOICE, weight_dtype=CHOICE),
        "RMBG": describe(model=CHOICE, background=CHOICE),
        "Clips": describe(clip_name1=EMPTY, clip_name2=CHOICE, type=CHOICE),
        "Upscaler": describe(upscale_model=CHOICE),
        "ByText": describe(model_name=TEXT, prompt=TEXT),
        "LoadImage": describe(image=[["a.png"], {"image_upload": True}]),
        "Load3D": describe(model_file=["COMBO", {"options": [], "file_upload": True}]),
        "LoadLatent": describe(latent=CHOICE),
        "Apply": describe(model=["MODEL"]),
        "LoraStack": describe(model=["MODEL"]),
    }
)


def graph(*nodes: Any) -> dict[str, Any]:
    return {str(number): one for number, one in enumerate(nodes, 1)}


def work(*nodes: Any, pixels: int | None = None) -> Work:
    return work_of(graph(*nodes), CATALOG, pixels=pixels)


def sampler(**inputs: Any) -> dict[str, Any]:
    return node("KSampler", **{"steps": 20, "seed": 1, "cfg": 7.0, "model": ["1", 0], **inputs})


CHECKPOINT = node("Checkpoint", ckpt_name="sd/xl.safetensors")


# --- models --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "models"),
    [
        (CHECKPOINT, ("sd/xl.safetensors",)),
        (node("Checkpoint", ckpt_name=" xl.CKPT "), ("xl.CKPT",)),
        (node("Checkpoint", ckpt_name="no extension"), ("no extension",)),
        (node("Checkpoint", ckpt_name=["4", 0]), ()),
        (node("Checkpoint", ckpt_name="x" * MAX_NAME_CHARS + ".ckpt"), ()),
        (node("Patch", name="qwen.pth", weight_dtype="fp8"), ("qwen.pth",)),
        (node("RMBG", model="RMBG-2.0", background="Alpha"), ("RMBG-2.0",)),
        (node("Clips", clip_name1="l", clip_name2="g.gguf", type="flux"), ("g.gguf", "l")),
        (node("Clips", clip_name1="None", clip_name2="[none]"), ()),
        (node("Upscaler", upscale_model="4x"), ("4x",)),
        (node("ByText", model_name="xl.safetensors", prompt="a.ckpt"), ()),
        (node("LoadImage", image="odd.bin"), ()),
        (node("Load3D", model_file="chair.bin"), ()),
        (node("LoadLatent", latent="odd.bin"), ()),
        (node("Apply", model="x"), ()),
        (node("Unknown", ckpt_name="x", anything="u.sft", text="a cat"), ("u.sft",)),
        (node("LoraStack", lora_1={"on": True, "lora": "l.safetensors"}), ("l.safetensors",)),
        (node("LoraStack", lora_1={"on": False, "lora": "l.safetensors"}), ()),
    ],
)
def test_the_models_of_a_node(one: Any, models: tuple[str, ...]) -> None:
    """Choices that are called or end like a model; of what no catalog tells the ending alone."""
    found = work(one)
    assert found.models == models
    assert found.loaders == ({"1"} if models else set())


def test_without_a_catalog_the_ending_tells() -> None:
    """Also where the class is one that everybody has."""
    found = work_of(graph(CHECKPOINT, node("RMBG", model="RMBG-2.0")), None)
    assert (found.models, found.loaders) == (("sd/xl.safetensors",), {"1"})


def test_models_are_sorted_and_each_once() -> None:
    """Every node that names one is a loader of it."""
    found = work(node("Checkpoint", ckpt_name="b.pt"), sampler(), CHECKPOINT, CHECKPOINT)
    assert found.models == ("b.pt", "sd/xl.safetensors")
    assert found.loaders == {"1", "3", "4"}


# --- kind, fingerprint, effort -----------------------------------------------------------------


def test_what_does_not_change_the_time() -> None:
    """Seeds, texts, files of clients, ids and order of nodes: neither kind nor fingerprint."""
    base = work(CHECKPOINT, sampler(), node("LoadImage", image="a.png"))
    same = work_of(
        {
            "x": node("LoadImage", image="other.png", salt=4),
            "y": sampler(seed=2, cfg=3.5, denoise=0.4, text="a dog", on=True),
            "z": CHECKPOINT,
        },
        CATALOG,
    )
    assert (base.kind, base.fingerprint, base.effort) == (same.kind, same.fingerprint, same.effort)


@pytest.mark.parametrize(
    ("nodes", "same_kind"),
    [
        ((CHECKPOINT, sampler(steps=30)), True),
        ((CHECKPOINT, sampler(width=512)), True),
        ((CHECKPOINT, sampler(), sampler()), False),
        ((node("Checkpoint", ckpt_name="other.ckpt"), sampler()), False),
        ((CHECKPOINT, node("OtherSampler", steps=20)), False),
    ],
)
def test_what_does(nodes: tuple[Any, ...], same_kind: bool) -> None:
    """A driver changes the fingerprint; classes, how many there are, and models the kind too."""
    base, other = work(CHECKPOINT, sampler()), work(*nodes)
    assert (base.kind == other.kind) is same_kind
    assert base.fingerprint != other.fingerprint
    assert other.fingerprint.startswith(other.kind)


def test_near_sizes_share_a_fingerprint() -> None:
    """Within about 5 %; the effort is exact all the same."""
    works = [work(sampler(width=1000 + step, height=1000)) for step in range(200)]
    assert 3 <= len({one.fingerprint for one in works}) <= 6
    assert len({one.effort for one in works}) == 200


@pytest.mark.parametrize(
    ("nodes", "effort"),
    [
        ((CHECKPOINT,), 1.0),
        ((sampler(steps=10), sampler(steps=30)), 30.0),
        ((node("Latent", width=100, height=50, batch_size=4), sampler()), 400_000.0),
        ((node("A", width=10, height=90), node("B", width=80, height=10)), 900.0),
        ((node("Scale", width=10, height=0),), 100.0),
        ((node("Scale", scale_by=1.5),), 2.25),
        ((node("Video", length=81, seconds=2.0),), 162.0),
        ((node("N", value=30), sampler(steps=["1", 0])), 30.0),
        ((sampler(steps=True), sampler(steps="9"), sampler(steps=-1), sampler(steps=None)), 1.0),
        ((sampler(steps=["1", 0]), sampler(steps=["9", 0]), sampler(steps=[[], {}])), 1.0),
        ((sampler(steps=math.nan), sampler(steps=4)), 4.0),
    ],
)
def test_the_effort(nodes: tuple[Any, ...], effort: float) -> None:
    """The largest of each driver counts; sides of one node are an area; what is no number is not
    there."""
    assert work(*nodes).effort == pytest.approx(effort)


def test_the_pixels_of_a_job_are_a_driver() -> None:
    """Of its effort and of its fingerprint, not of its kind."""
    small, large = (work(CHECKPOINT, pixels=pixels) for pixels in (10**6, 4 * 10**6))
    assert large.effort / small.effort == pytest.approx(4)
    assert small.kind == large.kind == work(CHECKPOINT).kind
    assert len({small.fingerprint, large.fingerprint, work(CHECKPOINT).fingerprint}) == 3


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "reads"),
    [
        (node("LoadImage", image="sub/a.PNG"), set()),
        (node("LoadImage", image="@1/a.png [output]"), {"@1/a.png"}),
        (node("LoadImage", image="odd [temp]"), {"odd"}),
        (node("Load", path="a.png [input]"), set()),
        (node("LoadImage", image="odd [input]"), set()),
        (node("LoadImageOutput", image="odd"), {"odd"}),
        (node("Load", video="v.mp4", audio="a.flac", latent="l.latent"), {"v.mp4", "a.flac",
                                                                          "l.latent"}),
        (node("Text", text="a cat", text_b="one\ntwo.png", text_c="x" * 600 + ".png"), set()),
        (CHECKPOINT, set()),
    ],
)  # fmt: skip
def test_what_a_node_reads(one: Any, reads: set[str]) -> None:
    """Names with a place or with the ending of a result; what was uploaded is none."""
    assert work(one).reads == reads


def test_no_more_names_than_the_limits() -> None:
    """A graph of a thousand names is a few of them."""
    nodes = [node("X", a=f"{n}.png", filename_prefix=f"p{n}") for n in range(1000)]
    found = work(*nodes)
    assert (len(found.reads), len(found.writes)) == (MAX_READS, MAX_WRITES)


@pytest.mark.parametrize(
    ("prefix", "name", "matches"),
    [
        ("ComfyUI", "ComfyUI_00001_.png", True),
        ("a/b", "a/b_00001_.png [output]", True),
        ("a\\b", "@2/a/b_00001_.png", True),
        ("a/b", "c/b_00001_.png", True),
        ("a/b", "a/c_00001_.png", False),
        ("day%date:yyyy%/x", "day2026/x_00001_.png", True),
        ("%date%/x", "x_00001_.png", False),
        ("a/%date%", "a/2026_00001_.png", True),
        ("a/%date%", "b/2026_00001_.png", False),
        ("", "x.png", False),
    ],
)
def test_whose_result_it_may_be(prefix: str, name: str, matches: bool) -> None:
    """By the prefix up to a placeholder, whatever folder of ours clients see the result in."""
    earlier, later = work(node("Save", filename_prefix=prefix)), work(node("Load", image=name))
    assert names_result_of(later, earlier) is matches
    assert not names_result_of(earlier, later)


# --- any JSON ----------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ("steps", "width", "height", "ckpt_name", "model", "image", "filename_prefix", "size", "on")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(("x.ckpt", "a.png [output]", "\udce9.pt", 10**400)),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(NAMES | st.text(), one, max_size=3),
    max_leaves=5,
)  # fmt: skip
CLASSES = st.sampled_from(("Checkpoint", "LoadImage", "KSampler", "Clips", "\udce9"))
NODES = VALUES | st.fixed_dictionaries(
    {"class_type": CLASSES | VALUES, "inputs": st.dictionaries(NAMES, VALUES) | VALUES}
)


@pytest.mark.long
@given(
    st.dictionaries(st.sampled_from("1234") | st.text(), NODES, max_size=6),
    st.none() | st.integers(),
    st.booleans(),
)
def test_nothing_is_refused(graph: dict[str, Any], pixels: int | None, known: bool) -> None:
    """Whatever a client sends is a work, with an effort to divide by, and equal the second time."""
    found, again = (work_of(graph, CATALOG if known else None, pixels=pixels) for _ in range(2))
    assert 0 < found.effort < math.inf
    assert (found.fingerprint, found.models) == (again.fingerprint, again.models)
    assert set(found.loaders) <= set(graph)
    names_result_of(found, again)
