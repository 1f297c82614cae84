"""What ``comfy-proxy run`` makes of its words, for workflows of all kinds; and what the proxy's
state says about how many jobs may be in flight."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from comfy_proxy.cli.command import CommandError
from comfy_proxy.cli.run.batch import in_flight
from comfy_proxy.cli.run.items import Item, expanded, make_items, pairs
from comfy_proxy.cli.run.outputs import Outputs, extension, fitted
from comfy_proxy.cli.run.target import Target
from comfy_proxy.client.models import ResultInfo, Workflow


def workflow(*files: str, required: tuple[str, ...] = ()) -> Workflow:
    return Workflow.read(
        {"name": "flow", "file_parameters": list(files), "parameters": {"required": list(required)}}
    )


def items(flow: Workflow, *paths: str, count: int = 1, **named: str) -> list[Item]:
    files = {name: Path(path) for name, path in named.items()}
    return make_items(flow, [Path(path) for path in paths], files, count=count, folder=Path("out"))


def test_the_first_file_parameter_gets_each_file_and_others_the_same() -> None:
    flow = workflow("image", "mask", required=("image", "mask"))
    made = items(flow, "a.png", "b.png", mask="m.png")
    assert [one.files for one in made] == [
        {"image": Path("a.png"), "mask": Path("m.png")},
        {"image": Path("b.png"), "mask": Path("m.png")},
    ]
    made = items(flow, "m1.png", "m2.png", image="a.png")
    assert [one.files["mask"] for one in made] == [Path("m1.png"), Path("m2.png")]
    with pytest.raises(CommandError, match="--file mask="):
        items(flow, "a.png")
    with pytest.raises(CommandError, match="takes no file but image, mask"):
        items(flow, "c.png", image="a.png", mask="m.png")
    with pytest.raises(CommandError, match="it takes: image, mask"):
        items(flow, "a.png", mask="m.png", style="s.png")


def test_a_workflow_without_a_file_is_run_as_often_as_is_said() -> None:
    """Each of them is another piece of work, though all is the same."""
    made = items(workflow(), count=4)
    assert [one.stem for one in made] == ["flow-1", "flow-2", "flow-3", "flow-4"]
    recipes = [one.recipe("flow", {"prompt": "a cat"}, None) for one in made]
    assert len({one.words for one in recipes}) == len({one.content for one in recipes}) == 4
    assert [one.stem for one in items(workflow())] == ["flow"]
    with pytest.raises(CommandError, match="takes no file"):
        items(workflow(), "a.png")


def test_names_of_outputs_are_short_and_different() -> None:
    """The same whichever order the files come in."""
    paths = ("x/a.png", "x/a.jpg", "x/b.png", "y/b.png", "y/x/b.png")
    stems = {str(one.files["image"]): one.stem for one in items(workflow("image"), *paths)}
    assert stems["x/a.png"] == "a.png"
    assert stems["x/a.jpg"] == "a.jpg"
    assert stems["y/b.png"] == "y-b.png"
    assert len(set(stems.values())) == 5
    assert stems == {
        str(one.files["image"]): one.stem for one in items(workflow("image"), *reversed(paths))
    }


def test_a_recipe_is_of_words_and_of_content(tmp_path: Path) -> None:
    """Words are workflow, parameters and places; content has the bytes instead of the places."""
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(b"one")
    other.write_bytes(b"one")
    item = Item(label="a", stem="a", files={"image": path})
    first = item.recipe("flow", {"seed": "1", "size": "2"}, tmp_path)
    assert item.recipe("flow", {"size": "2", "seed": "1"}, tmp_path) == first
    copy = Item(label="b", stem="b", files={"image": other}).recipe(
        "flow", {"seed": "1", "size": "2"}, tmp_path
    )
    assert (copy.content, copy.words == first.words) == (first.content, False)
    for changed in (item.recipe("flow", {"seed": "1"}, None), item.recipe("w", {}, None)):
        assert changed.words != first.words
        assert changed.content != first.content
    path.write_bytes(b"two")
    changed = item.recipe("flow", {"seed": "1", "size": "2"}, tmp_path)
    assert (changed.words, changed.content == first.content) == (first.words, False)


def test_a_recipe_is_the_same_after_all_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is named from another folder."""
    (tmp_path / "old" / "in").mkdir(parents=True)
    (tmp_path / "old" / "in" / "a.png").write_bytes(b"one")

    def words(path: Path, folder: Path) -> str:
        item = Item(label="a", stem="a", files={"image": path})
        return item.recipe("flow", {}, folder).words

    first = words(tmp_path / "old" / "in" / "a.png", tmp_path / "old" / "out")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new" / "in")
    assert words(Path("a.png"), Path("../out")) == first


def test_what_is_named_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", ".hidden"):
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "gone.png").symlink_to("nowhere")
    words = ["in", "in/a.png", "in/[ab].png", "none.png", "none*"]
    assert expanded(words, lambda path: False) == [
        Path("in/a.png"),
        Path("in/b.png"),
        Path("in/gone.png"),
        Path("none.png"),
    ]


def test_results_of_earlier_runs_are_inputs_only_if_named_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "a-flow.png"):
        (tmp_path / name).touch()

    def found(*words: str) -> list[str]:
        return [str(path) for path in expanded(words, lambda path: path.name == "a-flow.png")]

    for words in ([f"{tmp_path}/a.png", "a-flow.png"], ["a.png", "a-flow.png"], ["a*.png"]):
        assert "a-flow.png" not in found(*words)
    assert [Path(one).name for one in found(str(tmp_path))] == ["a.png", "b.png"]
    assert found("a-flow.png") == ["a-flow.png"]


def test_a_value_may_have_a_sign_of_equality_in_it() -> None:
    assert pairs(["prompt=a=b", "seed="], "--param") == {"prompt": "a=b", "seed": ""}
    for wrong in ("prompt", "=x"):
        with pytest.raises(CommandError, match="NAME=VALUE"):
            pairs([wrong], "--param")


def test_a_name_is_given_once() -> None:
    """As the API has it: of two values nobody knows which one is meant."""
    for second in ("seed=1", "seed=2"):
        with pytest.raises(CommandError, match="--param seed is given twice") as twice:
            pairs(["seed=1", "size=1", second], "--param")
        assert twice.value.code == 2


PICTURE = ResultInfo(name="still", type="image", media_type="image/png")


class Result:
    """What an Outputs saves."""

    def __init__(self, info: ResultInfo = PICTURE, content: bytes = b"made") -> None:
        self.info = info
        self._content = content

    async def save(self, path: Path) -> Path:
        await asyncio.to_thread(path.write_bytes, self._content)
        return path


async def saved(
    outputs: Outputs, stem: str, *infos: ResultInfo, own: tuple[Path, ...] = ()
) -> list[str]:
    item = Item(label=stem, stem=stem, files={})
    results: Any = [Result(info) for info in infos]
    return [path.name for path in (await outputs.save(item, results, own)).paths]


async def test_several_results_are_numbered_and_keep_their_kind(tmp_path: Path) -> None:
    film = ResultInfo(name="clip_01.mp4", type="video", media_type="video/mp4")
    outputs = Outputs(target=Target(folder=tmp_path))
    assert await saved(outputs, "a", film, PICTURE) == ["a-1.mp4", "a-2.png"]
    file = Outputs(target=Target(file=tmp_path / "x.webp"))
    assert await saved(file, "a", film) == ["x.webp"]
    assert await saved(file, "a", film, PICTURE) == ["x-1.webp", "x-2.webp"]
    assert extension(PICTURE) == ".png"


async def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    """The next name that is free for all of an item's results is taken, and what was avoided is
    told; of items that are saved at the same time too. Only its own files an item replaces."""
    (tmp_path / "a.png").write_bytes(b"mine")
    (tmp_path / "a-2.png").symlink_to("nowhere")
    outputs = Outputs(target=Target(folder=tmp_path))
    item = Item(label="a", stem="a", files={})
    both = await asyncio.gather(*(outputs.save(item, [Result()]) for _ in range(2)))  # type: ignore[list-item]
    assert [one.paths for one in both] == [[tmp_path / "a-3.png"], [tmp_path / "a-4.png"]]
    assert {one.avoided for one in both} == {tmp_path / "a.png"}
    assert (tmp_path / "a.png").read_bytes() == b"mine"
    assert await saved(outputs, "a", PICTURE, PICTURE) == ["a-2-1.png", "a-2-2.png"]
    assert await saved(outputs, "a", PICTURE, own=(tmp_path / "a-3.png",)) == ["a-3.png"]
    assert await saved(outputs, "b", PICTURE) == ["b.png"]


async def test_two_runs_into_one_folder_replace_nothing_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is the second gets the next name, though the first one's was free a moment before;
    of several results all, and nothing is left behind. Also where there are no hard links."""

    def unlinked(*_: object) -> None:
        raise PermissionError

    for links in (True, False):
        folder = tmp_path / str(links)
        folder.mkdir()
        if not links:
            monkeypatch.setattr(os, "link", unlinked)
        runs = [Outputs(target=Target(folder=folder)) for _ in range(4)]
        made = await asyncio.gather(*(saved(one, "a", PICTURE, PICTURE) for one in runs))
        if links:
            assert len({name for names in made for name in names}) == 8
        (folder / "b-2.png").write_bytes(b"mine")
        assert await saved(runs[0], "b", PICTURE, PICTURE) == ["b-2-1.png", "b-2-2.png"]
        assert (folder / "b-2.png").read_bytes() == b"mine"
        assert not [name for name in os.listdir(folder) if name.startswith(".")]
        assert "b-1.png" not in os.listdir(folder)


@pytest.mark.parametrize("letter", ["a", "é", "図", "\U0001f600"])
async def test_a_name_that_would_be_too_long_is_cut(tmp_path: Path, letter: str) -> None:
    """By bytes, as a file system counts; what was different stays so, what fits is as it was."""
    longest = letter * (251 // len(letter.encode()))
    outputs = Outputs(target=Target(folder=tmp_path))
    assert await saved(outputs, longest, PICTURE) == [f"{longest}.png"]
    for _ in range(2):
        await saved(outputs, longest, PICTURE, PICTURE)
    assert len(os.listdir(tmp_path)) == 5
    assert fitted(f"{longest}-1", ".png") != fitted(f"{longest}-2", ".png")


@pytest.mark.parametrize(
    ("instances", "allowed", "expected"),
    [("hh", 6, 6), ("hhhh", 12, 12), ("hud", 9, 3), ("h", 1, 2), ("u", 3, 2), ("h" * 40, 120, 64)],
)
def test_as_many_jobs_as_the_instances_that_take_work(
    instances: str, allowed: int, expected: int
) -> None:
    """h is healthy, u is not, d is drained."""
    snapshot: dict[str, Any] = {
        "instances": [
            {"status": "unhealthy" if one == "u" else "healthy", "draining": one == "d"}
            for one in instances
        ],
        "queue": {"max_concurrent_jobs": allowed},
    }
    assert in_flight(snapshot) == expected
