"""Exported graphs: parameters that are found, and those that a mapping names."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from fake_instance import Instance, picture
from template_files import RAW, node, write

from comfy_proxy.jobs.workflows.conditioning_roles import text_roles
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.jobs.workflows.graph_format import MAX_NODES
from comfy_proxy.jobs.workflows.parameter import MAX_SEED, MAX_TEXT_LENGTH
from comfy_proxy.jobs.workflows.workflow import Workflow

TEXT_TO_IMAGE: dict[str, Any] = {
    "1": node("CheckpointLoaderSimple", ckpt_name="sd.safetensors"),
    "2": node("EmptyLatentImage", width=512, height=768, batch_size=1),
    "3": node("CLIPTextEncode", text="bad", clip=["1", 1]),
    "4": node("CLIPTextEncode", text="a cat", clip=["1", 1]),
    "5": node(
        "KSampler",
        model=["1", 0], positive=["4", 0], negative=["3", 0], latent_image=["2", 0],
        seed=7, steps=20, cfg=8.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    ),
    "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
    "9": node("SaveImage", images=["6", 0], filename_prefix="x"),
}  # fmt: skip
OURS = ["format", "quality"]


def loaded(directory: Path, graph: Any, mapping: str | None = None) -> Workflow:
    write(directory, "mine.json", graph)
    if mapping is not None:
        write(directory, "mine.toml", mapping)
    registry = load_workflows(directory)
    assert registry.problems == ()
    return registry.get("mine")


def mistakes(directory: Path, graph: Any, mapping: str) -> list[str]:
    write(directory, "mine.json", graph)
    write(directory, "mine.toml", mapping)
    registry = load_workflows(directory)
    assert "mine" not in registry.names()
    return [str(one) for one in registry.problems]


def built(workflow: Workflow, **raw: Any) -> dict[str, Any]:
    """The prompt for these values, on an instance that has everything."""
    classes = [str(one["class_type"]) for one in workflow.variants[0].graph.values()]
    infos = {name: picture() for name in workflow.files}
    values = workflow.parse_parameters(raw)
    plan = workflow.choose(Instance(*classes), infos, values)
    return dict(plan.build({name: f"{name}.png" for name in workflow.files}).prompt)


def own(workflow: Workflow) -> list[str]:
    """The names of its parameters without those that every workflow has."""
    names = list(workflow.parameters)
    assert names[-2:] == OURS
    return names[:-2]


def test_a_raw_export_is_accepted_as_it_is(tmp_path: Path) -> None:
    """The author's title names the file; all else, the output node too, stays as it was."""
    workflow = loaded(tmp_path, RAW)
    assert (own(workflow), workflow.files) == (["load"], ("load",))
    assert workflow.file_of("image") == workflow.file_of("imageFile") == "load"
    plan = workflow.choose(Instance(), {"load": picture()}, workflow.parse_parameters({}))
    made = plan.build({"load": "up.png"})
    assert (made.output_nodes, made.by_frame) == (frozenset(), False)
    expected = copy.deepcopy(RAW)
    expected["1"]["inputs"]["image"] = "up.png"
    assert made.prompt == expected


def test_a_text_to_image_graph_takes_what_its_nodes_take(tmp_path: Path) -> None:
    """Prompts by where they lead, whichever comes first; the author's values are the defaults."""
    workflow = loaded(tmp_path, TEXT_TO_IMAGE)
    assert set(own(workflow)) == {
        "prompt", "negative_prompt", "checkpoint", "width", "height", "batch_size",
        "seed", "steps", "cfg", "sampler", "scheduler", "denoise",
    }  # fmt: skip
    assert workflow.parameters["prompt"].default == "a cat"
    assert workflow.parameters["negative_prompt"].default == "bad"
    assert workflow.parameters["seed"].random
    assert "format" not in workflow.parse_parameters({})
    prompt = built(workflow, prompt="a dog", seed=str(MAX_SEED), width="640")
    assert prompt["4"]["inputs"]["text"] == "a dog"
    assert prompt["3"]["inputs"]["text"] == "bad"
    assert prompt["5"]["inputs"]["seed"] == MAX_SEED
    assert prompt["2"]["inputs"] == {"width": 640, "height": 768, "batch_size": 1}


def test_an_emptied_negative_prompt_is_no_prompt_of_its_own(tmp_path: Path) -> None:
    """Flux: both inputs of the sampler lead to one text, of which ConditioningZeroOut makes the
    negative one."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    graph["3"] = node("ConditioningZeroOut", conditioning=["4", 0])
    names = own(loaded(tmp_path, graph))
    assert "prompt" in names
    assert not {"negative_prompt", "prompt_2", "text"} & set(names)


def test_roles_go_through_nodes_that_take_both(tmp_path: Path) -> None:
    """A ControlNet gives the positive in slot 0 and the negative in slot 1."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    graph["7"] = node("ControlNetApplyAdvanced", positive=["4", 0], negative=["3", 0], strength=1)
    graph["5"]["inputs"] |= {"positive": ["7", 0], "negative": ["7", 1]}
    parameters = loaded(tmp_path, graph).parameters
    assert (parameters["prompt"].default, parameters["negative_prompt"].default) == ("a cat", "bad")


def test_a_circle_of_conditionings_ends(tmp_path: Path) -> None:
    """No workflow comes of such a graph, and whoever looks for its roles does not hang on it."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    graph["3"] = node("ConditioningZeroOut", conditioning=["3", 0])
    graph["7"] = node("ControlNetApplyAdvanced", positive=["7", 0], negative=["7", 1])
    graph["5"]["inputs"]["positive"] = ["7", 0]
    assert text_roles(graph) == {"7": "positive", "3": "negative"}
    assert mistakes(tmp_path, graph, "") == ["mine.json: the links go round in a circle: 3 → 3"]


def test_a_second_one_of_a_name_has_a_number(tmp_path: Path) -> None:
    """Two samplers and two pictures: each input can be told, in the order of the graph."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    graph["8"] = copy.deepcopy(graph["5"])
    for name in ("10", "11", "12"):
        graph[name] = node("LoadImage", image="x.png")
    workflow = loaded(tmp_path, graph)
    names = own(workflow)
    assert names[:3] == list(workflow.files) == ["image", "image_2", "image_3"]
    assert {"seed", "seed_2", "steps_2"} <= set(names)
    assert workflow.file_of("imageFile") is None
    prompt = built(workflow, seed=1, seed_2=2)
    assert [prompt[one]["inputs"]["seed"] for one in ("5", "8")] == [1, 2]
    assert [prompt[one]["inputs"]["image"] for one in ("10", "11", "12")] == [
        "image.png", "image_2.png", "image_3.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("title", "inputs", "names"),
    [
        ("$Side", {"width": 8}, ["side"]),
        ("$Look", {"width": 8, "mode": "x", "on": True}, ["look_width", "look_mode", "look_on"]),
        ("$", {"width": 8, "Big Side": 9.5}, ["width", "big_side"]),
        ("$format", {"width": 8}, ["format_value"]),
        ("$image", {"width": 8}, ["image_value"]),
        ("$Größe!", {"width": 8}, ["grosse"]),
        ("$ümläut Äé", {"Größe": 8, "n": 1}, ["umlaut_ae_grosse", "umlaut_ae_n"]),
        ("$Ⅳ ﬁnal", {"width": 8}, ["iv_final"]),
        ("$4x", {"width": 8}, ["width"]),
        ("$日本", {"日": 8}, ["value"]),
        ("$" + "x" * 90, {"width": 8}, ["x" * 48]),
        ("$" + "x" * 60, {"width": 8, "n": 1}, ["x" * 42 + "_width", "x" * 46 + "_n"]),
        ("$" + "x" * 42, {"width": 8, "n": 1}, ["x" * 42 + "_width", "x" * 42 + "_n"]),
        ("$" + "a b " * 20, {"w": 8, "n": 1}, ["a_b_" * 11 + "a_w", "a_b_" * 11 + "a_n"]),
        ("$" + "x" * 60, {"y" * 60: 8, "4x": 1}, ["x" * 8 + "_" + "y" * 48, "x" * 45 + "_4x"]),
        ("$x", {"日": 8, "n": 1}, ["x", "x_n"]),
        ("Side", {"width": 8}, []),
    ],
)
def test_a_title_with_a_dollar_makes_parameters(
    tmp_path: Path, title: str, inputs: dict[str, Any], names: list[str]
) -> None:
    """On any node, of each input that is no link; names are those that a form can have."""
    odd = {**node("Odd", image=["1", 0], box=[1], **inputs), "_meta": {"title": title}}
    graph = {"1": node("Source"), "2": odd}
    assert own(loaded(tmp_path, graph)) == names


@pytest.mark.parametrize("meta", [None, 5, {}, {"title": 5}, {"title": ""}, {"title": "KSampler"}])
def test_a_title_of_the_editor_names_nothing(tmp_path: Path, meta: Any) -> None:
    """Nor does what is no title at all."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    graph["5"]["_meta"] = meta
    assert "seed" in own(loaded(tmp_path, graph))


@pytest.mark.parametrize(
    ("class_name", "inputs", "name"),
    [
        ("EmptyImage", {"width": 1}, "width"),
        ("KSampler", {"denoise": 1.5}, "denoise"),
        ("KSampler", {"steps": "many"}, "steps"),
        ("CLIPTextEncode", {"text": "x" * (MAX_TEXT_LENGTH + 1)}, "text"),
        ("CLIPTextEncode", {"text": 5}, "text"),
    ],
)
def test_what_the_author_wrote_is_never_refused(
    tmp_path: Path, class_name: str, inputs: dict[str, Any], name: str
) -> None:
    """A value that a client could not give stays in the graph, and is no default."""
    workflow = loaded(tmp_path, {"1": node(class_name, **inputs)})
    assert workflow.parameters[name].default is None
    assert built(workflow)["1"]["inputs"] == inputs


# --- the mapping --------------------------------------------------------------------------


def test_a_mapping_renames_and_adds(tmp_path: Path) -> None:
    """By id or by title; what it does not say comes of the graph, what it names is found once."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    graph["2"]["_meta"] = {"title": "Canvas"}
    workflow = loaded(
        tmp_path,
        graph,
        """
        title = "Mine"
        description = "makes it"
        outputs = ["9"]
        [parameters.subject]
        node = 4
        description = "what is seen"
        [parameters.wide]
        node = "Canvas"
        input = "width"
        maximum = 1000
        [parameters.prefix]
        node = "9"
        """,
    )
    names = own(workflow)
    assert {"subject", "wide", "prefix", "canvas_height", "seed"} <= set(names)
    assert not {"prompt", "width", "canvas_width"} & set(names)
    assert (workflow.title, workflow.description) == ("Mine", "makes it")
    assert workflow.variants[0].outputs == frozenset({"9"})
    wide = workflow.parameters["wide"]
    assert (wide.minimum, wide.maximum, wide.default) == (16, 1000, 512)
    prompt = built(workflow, subject="x", wide=100, prefix="p")
    assert prompt["4"]["inputs"]["text"] == "x"
    assert prompt["2"]["inputs"]["width"] == 100
    assert prompt["9"]["inputs"]["filename_prefix"] == "p"


def test_a_mapping_may_say_all(tmp_path: Path) -> None:
    """``automatic = false``: nothing is found that it does not name."""
    mapping = 'automatic = false\n[parameters.text]\nnode = "4"\nrequired = true'
    workflow = loaded(tmp_path, TEXT_TO_IMAGE, mapping)
    assert own(workflow) == ["text"]
    assert workflow.parameters["text"].is_required
    assert built(workflow, text="x")["5"]["inputs"]["seed"] == 7


def test_a_mapping_makes_a_file_of_a_name(tmp_path: Path) -> None:
    """An input of a node that we do not know takes a file; a file that may be left out does."""
    graph = {"1": node("LoadLut", lut="a.cube"), "2": node("Use", x=["1", 0])}
    mapping = '[parameters.lut]\nnode = "1"\ntype = "file"\nkind = "file"\nrequired = false'
    workflow = loaded(tmp_path, graph, mapping)
    assert workflow.files == ("lut",)
    assert not workflow.parameters["lut"].is_required


def test_a_mapping_keeps_a_seed_from_being_random(tmp_path: Path) -> None:
    """``random = false``: the author's seed is used if none is given."""
    mapping = '[parameters.seed]\nnode = "5"\ninput = "seed"\nrandom = false'
    workflow = loaded(tmp_path, TEXT_TO_IMAGE, mapping)
    assert workflow.parse_parameters({})["seed"] == 7


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ("colour = 1", "colour: there is no such key here"),
        ("title = 5", "title: input should be a valid string"),
        ("automatic = 'no'", "automatic: input should be a valid boolean"),
        ("parameters = 5", "parameters: must be an object"),
        ("[parameters]\nx = 5", "parameters.x: must be an object"),
        ("[parameters.x]", "parameters.x.node: must be the id or the title"),
        ("[parameters.format]\nnode = '4'", "parameters: 'format': reserved"),
        ("[parameters.'a b']\nnode = '4'", "parameters: 'a b': reserved, or no name"),
        ("[parameters.x]\nname = 'y'\nnode = '4'", "parameters: x: the key is the name"),
        ("[parameters.x]\ninput = 'text'", "parameters.x.node: must be the id or the title"),
        ("[parameters.x]\nnode = ['4']", "parameters.x.node: must be the id or the title"),
        ("[parameters.x]\nnode = ''", "parameters.x.node: must be the id or the title"),
        ("[parameters.x]\nnode = '44'", "parameters.x.node: no node has the id or title '44'"),
        ("[parameters.x]\nnode = 'Twin'", "parameters.x.node: 2 nodes have the title 'Twin'"),
        ("[parameters.x]\nnode = '5'", "parameters.x.input: must be one of seed, steps, cfg"),
        ("[parameters.x]\nnode = '5'\ninput = 'model'", "parameters.x.input: must be one of seed"),
        ("[parameters.x]\nnode = '5'\ninput = ['cfg']", "parameters.x.input: must be one of seed"),
        (
            "[parameters.x]\nnode = '4'\n[parameters.y]\nnode = 4",
            "parameters.y.input: is that of parameters.x, too",
        ),
        ("[parameters.x]\nnode = '4'\nminimun = 1", "parameters.x.minimun: there is no such key"),
        ("[parameters.x]\nnode = '4'\ntype = 'colour'", "parameters.x.type: input should be"),
        ("[parameters.x]\nnode = '4'\ntype = 'file'", "parameters.x: a file, and nothing else"),
        ("[parameters.x]\nnode = '4'\nrandom = true", "parameters.x: random belongs to an integer"),
        ("outputs = ['44']", "outputs: no node has the id or title '44'"),
        ("outputs = '9'", "outputs: input should be a valid list"),
        ("x", "is not TOML"),
    ],
)
def test_a_mistake_in_a_mapping_is_told_with_its_key(
    tmp_path: Path, mapping: str, problem: str
) -> None:
    """The mapping's file, the key in it, and the reason; the workflow is not there."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    for name in ("1", "2"):
        graph[name]["_meta"] = {"title": "Twin"}
    assert any(
        one.startswith(f"mine.toml: {problem}") for one in mistakes(tmp_path, graph, mapping)
    )


def test_a_mapping_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    """Whatever bytes there are."""
    write(tmp_path, "mine.json", RAW)
    (tmp_path / "mine.toml").write_bytes(b"title = '\xff'")
    (problem,) = load_workflows(tmp_path).problems
    assert str(problem) == "mine.toml: is not UTF-8; save it as that"


@pytest.mark.parametrize("value", ["'x'", "nan", "[1]", "true"])
def test_a_wrong_bound_is_one_mistake(tmp_path: Path, value: str) -> None:
    """Whatever a bound may be, one line says what is wrong with it."""
    mapping = f'[parameters.side]\nnode = "2"\ninput = "width"\nminimum = {value}'
    (line,) = mistakes(tmp_path, RAW, mapping)
    assert line.startswith("mine.toml: parameters.side.minimum: input should be ")


def test_a_file_takes_the_place_of_a_text(tmp_path: Path) -> None:
    """What ComfyUI calls an upload is a text, and a number's input would refuse it."""
    mapping = '[parameters.side]\nnode = "2"\ninput = "width"\ntype = "file"\nkind = "image"'
    (line,) = mistakes(tmp_path, RAW, mapping)
    assert line == "mine.toml: parameters.side.type: width takes no file's name: it is no text"


# --- odd and large ones -------------------------------------------------------------------


@pytest.mark.parametrize(
    "link", [["1", -1], ["1", 0.5], ["1"], [1, 0], ["1", "0"], [], [["1", 0]], {"1": 0}, None]
)
def test_a_value_that_only_looks_like_a_link_is_left_alone(tmp_path: Path, link: Any) -> None:
    """ComfyUI says what it thinks of it; we pass it on as it is."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    graph["5"]["inputs"]["positive"] = link
    assert built(loaded(tmp_path, graph))["5"]["inputs"]["positive"] == link


@pytest.mark.parametrize("name", ["57:3", "a.b", "", "日本", "9" * 5000, "-1", "٣"])
def test_ids_may_be_any_text(tmp_path: Path, name: str) -> None:
    """Subgraphs of ComfyUI have ids like 57:3; others are somebody's own."""
    graph = {name: node("EmptyImage", width=64), "9": node("SaveImage", images=[name, 0])}
    assert built(loaded(tmp_path, graph), width=32)[name]["inputs"]["width"] == 32


@pytest.mark.long
def test_a_large_graph_is_read_in_time_that_grows_with_it(tmp_path: Path) -> None:
    """As many samplers as there may be nodes make as many seeds, each with its own name; with one
    more there is a problem."""
    graph = {str(at): node("KSampler", seed=at) for at in range(MAX_NODES)}
    names = own(loaded(tmp_path, graph))
    assert (len(names), names[0], names[-1]) == (MAX_NODES, "seed", f"seed_{MAX_NODES}")
    write(tmp_path, "mine.json", {**graph, "x": node("KSampler", seed=1)})
    (problem,) = load_workflows(tmp_path).problems
    assert f"at most {MAX_NODES} items" in problem.reason
