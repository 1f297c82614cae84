"""What a graph names is where it runs, under exactly the name in the graph."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from files_front import LOAD_INFO, Front, picture, running_front

from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.staging import InputStaging, files_in_graph

RED, BLUE, GREEN = picture("red"), picture("blue"), picture("green")


@pytest.fixture
async def front(workers: tuple[EmbeddedWorker, EmbeddedWorker]) -> AsyncIterator[Front]:
    async with running_front(*workers) as front:
        yield front


def graph(*names: str) -> dict[str, Any]:
    """A node that loads each of ``names``."""
    return {
        str(number): {"class_type": "LoadImage", "inputs": {"image": name}}
        for number, name in enumerate(names, start=1)
    }


def inputs(front: Front) -> InputStaging:
    """As the gateway's own, of instances whose loaders are known."""
    gateway = front.gateway
    return InputStaging(gateway.files, gateway.staging, lambda _: LOAD_INFO, several=True)


async def stage(front: Front, number: int, *names: str, **options: Any) -> None:
    prompt = graph(*names)
    before = repr(prompt)
    instance = front.instances[number - 1]
    await inputs(front).stage(prompt, instance, **options)
    assert repr(prompt) == before


def holds(front: Front, number: int, *names: str) -> int:
    return inputs(front).held_by(graph(*names), front.instances)[front.instances[number - 1]]


class Requests:
    """How many requests each instance gets."""

    def __init__(self, front: Front) -> None:
        self.kinds: list[str] = []
        for instance in front.instances:
            instance.observers.append(lambda attempt: self.kinds.append(attempt.kind))


# --- which files ----------------------------------------------------------------------------


def test_files_of_a_graph() -> None:
    """Annotated names of the loaders, each once and in order; links and texts are none."""
    prompt = {
        **graph("a.png", "sub/b.png [output]", "a.png", "@2/c.png [temp]"),
        "7": {"class_type": "LoadImage", "inputs": {"image": ["1", 0]}},
        "8": {"class_type": "LoadImageMask", "inputs": {"image": "m.png", "channel": "red"}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "no.png"}},
        "10": {"class_type": "LoadAudio", "inputs": {"audio": "s.wav"}},
        "11": {"class_type": "LoadVideo", "inputs": {"file": "v.mp4"}},
        "12": {"class_type": "LoadLatent", "inputs": {"latent": "l.latent"}},
    }
    assert files_in_graph(prompt, NodeCatalog()) == [
        FileName(filename="a.png", type="input"),
        FileName(filename="b.png", subfolder="sub", type="output"),
        FileName(filename="c.png", subfolder="@2", type="temp"),
        *(FileName(filename=name, type="input") for name in ("m.png", "s.wav", "v.mp4")),
        FileName(filename="l.latent", type="input"),
    ]


@pytest.mark.parametrize(
    "spec",
    [
        [["a.png"], {"image_upload": True}],
        ["COMBO", {"options": [], "video_upload": True}],
        ["COMBO", {"file_upload": True, "multiselect": False}],
        ("COMBO", {"audio_upload": True}),
    ],
)
@pytest.mark.parametrize("group", ["required", "optional"])
def test_custom_loaders(spec: Any, group: str) -> None:
    """An input of any class that ``/object_info`` marks for uploads names files."""
    info: Mapping[str, Any] = {"My": {"input": {group: {"f": spec, "other": ["STRING", {}]}}}}
    catalog = NodeCatalog.from_json(info)
    prompt = {"1": {"class_type": "My", "inputs": {"f": "a.png", "other": "b.png"}}}
    assert files_in_graph(prompt, catalog) == [FileName(filename="a.png", type="input")]
    several = {"1": {"class_type": "My", "inputs": {"f": ["a.png", "b.png"]}}}
    assert len(files_in_graph(several, catalog)) == 2


@pytest.mark.parametrize(
    "prompt",
    [
        {"1": None, "2": [], "3": {"class_type": "LoadImage"}, "4": {"inputs": {"image": "a"}}},
        {"1": {"class_type": ["LoadImage"], "inputs": {"image": "a"}}},
        {"1": {"class_type": "LoadImage", "inputs": {"image": {"image": "a"}}}},
        graph("../a.png", "/etc/passwd", "@2/../../x.png [output]", "a/../b.png", "", " [output]"),
        graph("\\\\host\\x.png", "..\\x.png", "a\0b", "sub/"),
    ],
)
def test_nothing_to_bring(prompt: dict[str, Any]) -> None:
    """Malformed nodes, and paths that climb or are absolute, are left to ComfyUI."""
    catalog = NodeCatalog.from_json({"LoadImage": {"input": {"required": {"odd": []}}}})
    assert files_in_graph(prompt, catalog) == []


# --- uploads --------------------------------------------------------------------------------


async def test_an_instance_that_was_down_gets_the_upload(front: Front) -> None:
    """What it missed is put there before the prompt, subfolder and type included."""
    await front.take_away(2)
    await front.upload(RED, "a.png")
    await front.upload(BLUE, "b.png", subfolder="sub/dir")
    await front.upload(GREEN, "c.png", type="temp")
    await front.bring_back(2)
    names = ("a.png", "sub/dir/b.png", "c.png [temp]")
    assert holds(front, 2, *names) == 0
    await stage(front, 2, *names)
    assert holds(front, 2, *names) == 3
    assert front.files("input/a.png") == [RED, RED]
    assert front.files("input/sub/dir/b.png") == [BLUE, BLUE]
    assert front.files("temp/c.png") == [GREEN, GREEN]


async def test_an_instance_that_came_back_empty(front: Front) -> None:
    """A new disk gets the upload when it is needed, from what we kept: nobody else is asked."""
    await front.upload(RED, "a.png")
    await front.take_away(2)
    await front.bring_back(2, keep_files=False)
    await front.take_away(1)
    await stage(front, 2, "a.png")
    assert front.files("input/a.png") == [RED, RED]


async def test_newest_bytes_win(front: Front) -> None:
    """One that missed an overwrite gets the new bytes."""
    await front.upload(RED)
    await front.take_away(2)
    await front.upload(BLUE, overwrite="true")
    await front.bring_back(2)
    assert front.files("input/x.png") == [BLUE, RED]
    await stage(front, 2, "x.png")
    assert front.files("input/x.png") == [BLUE, BLUE]


async def test_what_is_known_is_not_asked(front: Front) -> None:
    """After an upload a prompt anywhere costs no request for its file."""
    await front.upload(RED)
    requests = Requests(front)
    for number in (1, 2):
        await stage(front, number, "x.png", "x.png [input]")
    assert requests.kinds == []


async def test_a_file_deleted_behind_our_back(front: Front) -> None:
    """Asked afresh, the instance is found without it and gets it."""
    await front.upload(RED)
    (front.workers[1].folders.base / "input/x.png").unlink()
    await stage(front, 2, "x.png")
    assert front.files("input/x.png") == [RED, None]
    await stage(front, 2, "x.png", fresh=True)
    assert front.files("input/x.png") == [RED, RED]


async def test_many_prompts_at_once_bring_it_once(front: Front) -> None:
    """Twenty prompts that need the same file cause one copy."""
    front.write(1, "input/x.png", RED)
    await asyncio.gather(*(stage(front, 2, "x.png") for _ in range(20)))
    assert front.workers[1].uploads == ["input/x.png"]


# --- files that did not come through here ---------------------------------------------------


async def test_a_file_on_one_disk(front: Front) -> None:
    """Put there by hand, or uploaded before the proxy was restarted: copied from who has it."""
    front.write(2, "input/sub/x.png", RED)
    assert holds(front, 2, "sub/x.png") == 0
    await stage(front, 2, "sub/x.png")
    assert holds(front, 2, "sub/x.png") == 1
    await stage(front, 1, "sub/x.png")
    assert front.files("input/sub/x.png") == [RED, RED]


async def test_files_of_their_own_stay(front: Front) -> None:
    """Two instances with different files of one name that nobody uploaded keep theirs."""
    front.write(1, "input/x.png", RED)
    front.write(2, "input/x.png", BLUE)
    for number in (1, 2):
        await stage(front, number, "x.png")
    assert front.files("input/x.png") == [RED, BLUE]


async def test_a_file_that_nobody_has(front: Front) -> None:
    """It is left to ComfyUI's 400."""
    await stage(front, 1, "none.png", "none.png [output]", "@2/none.png [temp]")
    assert holds(front, 1, "none.png") == 0
    assert [worker.uploads for worker in front.workers] == [[], []]


# --- earlier results ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["output", "temp"])
@pytest.mark.parametrize("target", [1, 2])
async def test_earlier_results(front: Front, kind: str, target: int) -> None:
    """Marked results are put under the marked path, on their owner too; nothing of a name
    without a mark is touched."""
    front.write(1, f"{kind}/a/x.png", RED)
    front.write(2, f"{kind}/a/x.png", BLUE)
    await stage(front, target, f"@1/a/x.png [{kind}]", f"@2/a/x.png [{kind}]")
    index = target - 1
    assert front.files(f"{kind}/@1/a/x.png")[index] == RED
    assert front.files(f"{kind}/@2/a/x.png")[index] == BLUE
    assert front.files(f"{kind}/a/x.png") == [RED, BLUE]


async def test_a_result_is_brought_once(front: Front) -> None:
    """A second prompt only asks its owner whether it is still the same."""
    front.write(2, "output/x.png", BLUE)
    await stage(front, 1, "@2/x.png [output]")
    requests = Requests(front)
    await stage(front, 1, "@2/x.png [output]")
    assert requests.kinds == ["ask"]
    assert front.workers[0].uploads == ["output/@2/x.png"]


async def test_a_result_that_its_owner_wrote_anew(front: Front) -> None:
    """A node that saves under a fixed name makes a new picture: copies follow, on the owner too."""
    front.write(2, "output/x.png", BLUE)
    for number in (1, 2):
        await stage(front, number, "@2/x.png [output]")
    front.write(2, "output/x.png", GREEN + b" anew")
    for number in (1, 2):
        await stage(front, number, "@2/x.png [output]")
    assert front.files("output/@2/x.png") == [GREEN + b" anew"] * 2


async def test_a_result_of_an_owner_that_was_away(front: Front) -> None:
    """Its version is asked again: the same is left, another one is brought."""
    front.write(2, "output/x.png", BLUE)
    await stage(front, 1, "@2/x.png [output]")
    await front.take_away(2)
    await front.bring_back(2)
    await stage(front, 1, "@2/x.png [output]")
    assert len(front.workers[0].uploads) == 1
    await front.take_away(2)
    await front.bring_back(2, keep_files=False)
    front.write(2, "output/x.png", GREEN)
    await stage(front, 1, "@2/x.png [output]")
    assert front.files("output/@2/x.png") == [GREEN, None]


async def test_a_result_whose_owner_is_away(front: Front) -> None:
    """The copy that is there serves; without one the prompt is ComfyUI's to refuse."""
    front.write(2, "output/x.png", BLUE)
    await stage(front, 1, "@2/x.png [output]")
    await front.take_away(2)
    await stage(front, 1, "@2/x.png [output]", "@2/y.png [output]")
    assert front.files("output/@2/x.png") == [BLUE, None]
    assert front.files("output/@2/y.png") == [None, None]


async def test_preference(front: Front) -> None:
    """Its own results and what it holds speak for an instance, a recorded maker for a bare name."""
    assert (holds(front, 1, "@1/x.png [output]"), holds(front, 2, "@1/x.png [output]")) == (1, 0)
    record = FileName(filename="b.png")
    front.gateway.files.makers.record(record, front.instances[1], is_sure=False)
    assert (holds(front, 1, "b.png [output]"), holds(front, 2, "b.png [output]")) == (0, 1)
    await front.upload(RED)
    assert (holds(front, 1, "x.png"), holds(front, 2, "x.png")) == (1, 1)


# --- when nothing is to be done -------------------------------------------------------------


async def test_shared_storage_stages_nothing(
    workers: tuple[EmbeddedWorker, EmbeddedWorker],
) -> None:
    """One directory for all: nothing is asked and nothing copied, even if one says that it lacks
    the file."""
    async with running_front(*workers, shared_storage=frozenset({"input"})) as front:
        front.write(1, "input/x.png", RED)
        requests = Requests(front)
        await stage(front, 2, "x.png")
        await stage(front, 2, "x.png", fresh=True)
        assert requests.kinds == []


async def test_a_target_that_is_away(front: Front) -> None:
    """Staging never fails: the prompt itself will be told."""
    front.write(1, "input/x.png", RED)
    await front.workers[1].kill()
    await stage(front, 2, "x.png")
    assert holds(front, 2, "x.png") == 0


async def test_a_graph_runs_with_what_was_brought(front: Front) -> None:
    """A real prompt with an upload and both results of one name gets through validation."""
    await front.take_away(2)
    await front.upload(GREEN, "in.png")
    await front.bring_back(2)
    front.write(1, "output/x.png", RED)
    front.write(2, "output/x.png", BLUE)
    prompt = graph("in.png", "@1/x.png [output]", "@2/x.png [output]")
    for number in tuple(prompt):
        prompt[f"p{number}"] = {"class_type": "PreviewImage", "inputs": {"images": [number, 0]}}
    await inputs(front).stage(prompt, front.instances[1])
    session = front.gateway.cluster.connections.session(front.instances[1])
    async with session.post(f"{front.workers[1].url}/prompt", json={"prompt": prompt}) as answer:
        body = await answer.json()
        assert (answer.status, body["node_errors"]) == (200, {})
