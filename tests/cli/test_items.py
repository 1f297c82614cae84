"""What ``comfy-proxy run`` makes of its words, for workflows of all kinds; and what the proxy's
state says about how many jobs may be in flight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comfy_proxy.cli.command import CommandError
from comfy_proxy.cli.run.batch import in_flight
from comfy_proxy.cli.run.items import Item, expanded, make_items, pairs
from comfy_proxy.cli.run.outputs import DoneBook, Outputs, extension
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
    assert len({one.fingerprint("flow", {"prompt": "a cat"}) for one in made}) == 4
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


def test_the_fingerprint_is_of_bytes_parameters_and_workflow(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    item = Item(label="a", stem="a", files={"image": path})
    first = item.fingerprint("flow", {"seed": "1", "size": "2"})
    assert item.fingerprint("flow", {"size": "2", "seed": "1"}) == first
    others = {item.fingerprint("flow", {"seed": "1"}), item.fingerprint("w", {"seed": "1"})}
    path.write_bytes(b"two")
    others.add(item.fingerprint("flow", {"seed": "1", "size": "2"}))
    assert len(others | {first}) == 4


def test_what_is_named_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", ".hidden"):
        (tmp_path / "in" / name).touch()
    assert expanded(["in", "in/a.png", "in/*.png", "none.png", "none*"]) == [
        Path("in/a.png"),
        Path("in/b.png"),
        Path("none.png"),
    ]


def test_a_value_may_have_a_sign_of_equality_in_it() -> None:
    assert pairs(["prompt=a=b", "seed="], "--param") == {"prompt": "a=b", "seed": ""}
    for wrong in ("prompt", "=x"):
        with pytest.raises(CommandError, match="NAME=VALUE"):
            pairs([wrong], "--param")


def test_several_results_are_numbered_and_keep_their_kind() -> None:
    infos = [
        ResultInfo(name="clip_01.mp4", type="video", media_type="video/mp4"),
        ResultInfo(name="still", type="image", media_type="image/png"),
    ]
    item = Item(label="a", stem="a", files={})
    outputs = Outputs(target=Path("out"), is_folder=True)
    paths = [outputs._path(item, info, n, of=2) for n, info in enumerate(infos, 1)]
    assert paths == [Path("out/a-1.mp4"), Path("out/a-2.png")]
    file = Outputs(target=Path("x.webp"), is_folder=False)
    assert file._path(item, infos[0], 1, of=1) == Path("x.webp")
    assert file._path(item, infos[1], 2, of=2) == Path("x-2.webp")
    assert extension(infos[1]) == ".png"


def test_an_item_is_done_when_all_of_its_files_are_there(tmp_path: Path) -> None:
    made = [tmp_path / "a-1.png", tmp_path / "a-2.png"]
    for path in made:
        path.write_bytes(b"picture")
    DoneBook(tmp_path).add("a", "f", made)
    assert DoneBook(tmp_path).outputs("a", "f") == made
    assert DoneBook(tmp_path).outputs("a", "g") == []
    made[1].write_bytes(b"pict")
    assert DoneBook(tmp_path).outputs("a", "f") == []
    nowhere = DoneBook(None)
    nowhere.add("a", "f", made)
    assert nowhere.outputs("a", "f") == []


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
