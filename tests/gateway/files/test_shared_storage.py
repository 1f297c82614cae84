"""What is one directory is found out, and what is not never counts (storage_discovery.py)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from files_front import Front, picture, running_front
from manual_clock import ManualClock

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.files import storage_probe
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.files.storage_discovery import RECHECK_S, RETRY_S, StorageDiscovery

RED, BLUE = picture("red"), picture("blue")
KINDS = ("input", "output", "temp")
PROBE = ".comfy-proxy/shared-storage.txt"


@asynccontextmanager
async def front_over(*bases: Path, **settings: Any) -> AsyncIterator[Front]:
    """A front before one worker for each of ``bases``; it listens for news of them."""
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(EmbeddedWorker(base_directory=base)) for base in bases
        ]
        front = await stack.enter_async_context(running_front(*workers, **settings))
        discovery(front).start()
        yield front


def storage(front: Front) -> SharedStorage:
    return front.gateway.files.storage


def discovery(front: Front) -> StorageDiscovery:
    return front.gateway.storage_discovery


async def find_out(front: Front, *numbers: int) -> None:
    """A check of each of these instances has passed; what follows from it is done."""
    for number in numbers:
        discovery(front).heard(front.instances[number - 1])
    await asyncio.gather(*discovery(front)._tasks.values())


def common(front: Front) -> dict[str, list[str]]:
    """Kind → the ids of the instances that are known to share it with all others."""
    return {kind: [one.id for one in storage(front).common(kind)] for kind in KINDS}


NOTHING: dict[str, list[str]] = {kind: [] for kind in KINDS}
ALL_OF_TWO = {kind: ["1", "2"] for kind in KINDS}


def share(base: Path, other: Path, *kinds: str) -> None:
    """``other`` gets directories of ``base``."""
    other.mkdir(exist_ok=True)
    for kind in kinds:
        (base / kind).mkdir(parents=True, exist_ok=True)
        (other / kind).symlink_to(base / kind)


# --- what is shared -------------------------------------------------------------------------


async def test_a_common_base_directory(tmp_path: Path) -> None:
    """Input, output and temp are common, and one small file is in each."""
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1)
        assert common(front) == NOTHING
        await find_out(front, 2)
        assert common(front) == ALL_OF_TWO
        for kind in KINDS:
            assert [path.name for path in (tmp_path / kind).rglob("*.*")] == [
                ".comfy-proxy",
                "shared-storage.txt",
            ]


async def test_directories_of_their_own(tmp_path: Path) -> None:
    """Nothing is common, and no socket is opened for nothing."""
    async with front_over(tmp_path / "one", tmp_path / "two") as front:
        await find_out(front, 1, 2)
        assert common(front) == NOTHING
        assert [worker.open_sockets for worker in front.workers] == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
async def test_only_one_of_the_three(tmp_path: Path, kind: str) -> None:
    """Each kind of directory is found out by itself."""
    one, two = tmp_path / "one", tmp_path / "two"
    share(one, two, kind)
    async with front_over(one, two) as front:
        await find_out(front, 1, 2)
        assert common(front) == {**NOTHING, kind: ["1", "2"]}


async def test_two_groups_of_four(tmp_path: Path) -> None:
    """Two machines with two instances each: those of a machine are one place, all four are not."""
    async with front_over(*(tmp_path / name for name in "abab")) as front:
        await find_out(front, 1, 2, 3, 4)
        assert common(front) == NOTHING
        a1, b1, a2, b2 = front.instances
        for kind in KINDS:
            assert storage(front).same(a1, a2, kind)
            assert storage(front).same(b1, b2, kind)
            assert not storage(front).same(a1, b1, kind)
        await front.upload(RED)
        uploads = [[p for p in worker.uploads if PROBE not in p] for worker in front.workers]
        assert uploads == [["input/x.png"], ["input/x.png"], [], []]


async def test_what_is_set_is_not_asked(tmp_path: Path) -> None:
    """``true`` and ``false`` hold whatever is there, and write nothing."""
    for setting, found in (("true", ALL_OF_TWO), ("false", NOTHING)):
        async with front_over(tmp_path / "a", tmp_path / "b", shared_storage=setting) as front:
            await find_out(front, 1, 2)
            front.instances[0].socket_lost()
            assert common(front) == found
            assert [worker.uploads for worker in front.workers] == [[], []]


# --- when it is not known -------------------------------------------------------------------


async def test_one_that_is_down_at_the_start(tmp_path: Path) -> None:
    """Nothing is common until it was there."""
    async with front_over(tmp_path, tmp_path) as front:
        await front.take_away(2)
        await find_out(front, 1)
        assert common(front) == NOTHING
        await front.bring_back(2)
        await find_out(front, 2)
        assert common(front) == ALL_OF_TWO


async def test_one_that_was_away_shares_nothing_until_it_was_tried(tmp_path: Path) -> None:
    """Its outputs are marked for that time, those of the others are named as before."""
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1, 2)
        await front.take_away(2)
        await front.bring_back(2)
        assert common(front) == {kind: ["1"] for kind in KINDS}
        output = {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}]}
        one, two = front.instances
        assert storage(front).prefixed(output, one) == output
        assert storage(front).prefixed(output, two)["images"][0]["subfolder"] == "@2"
        await find_out(front, 2)
        assert common(front) == ALL_OF_TWO
        assert storage(front).prefixed(output, two) == output


async def test_a_socket_that_breaks_off_may_mean_a_restart(tmp_path: Path) -> None:
    """Those that share are listened to: a restart between two checks is noticed."""
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1, 2)
        assert [worker.open_sockets for worker in front.workers] == [1, 1]
        heard = asyncio.Event()
        front.instances[1].on_interruption.append(lambda _: heard.set())
        await front.workers[1].restart()
        await heard.wait()
        assert common(front) == {kind: ["1"] for kind in KINDS}


async def test_all_were_away_at_once(tmp_path: Path) -> None:
    """The network was cut: all are tried again."""
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1, 2)
        for instance in front.instances:
            instance.socket_lost()
        assert common(front) == NOTHING
        await find_out(front, 1, 2)
        assert common(front) == ALL_OF_TWO


async def test_one_that_comes_back_with_other_directories(tmp_path: Path) -> None:
    """All names are marked from then on, and bare names of before are those of the others."""
    one, two = tmp_path / "one", tmp_path / "two"
    share(one, two, "output")
    async with front_over(one, two) as front:
        await find_out(front, 1, 2)
        front.write(1, "output/x.png", RED)
        await front.take_away(2)
        (two / "output").unlink()
        front.write(2, "output/x.png", BLUE)
        await front.bring_back(2)
        await find_out(front, 2)
        assert common(front) == NOTHING
        front.gateway.files.made(FileName(filename="x.png"), front.instances[1])
        assert await front.view() == (200, RED)
        assert await front.view(subfolder="@2") == (200, BLUE)


async def test_something_mounted_over_it(tmp_path: Path) -> None:
    """Without any restart it is found at the next try, after a while."""
    one, two = tmp_path / "one", tmp_path / "two"
    share(one, two, *KINDS)
    async with front_over(one, two) as front:
        await find_out(front, 1, 2)
        (two / "input").unlink()
        (two / "input").mkdir()
        await find_out(front, 2)
        assert common(front) == ALL_OF_TWO
        await clock(front).advance(RECHECK_S + 1)
        await find_out(front, 2)
        assert common(front) == {**ALL_OF_TWO, "input": []}


async def test_a_prompt_that_misses_what_all_have(tmp_path: Path) -> None:
    """One that lacks a file of a common directory has another one: it gets its copy at once."""
    one, two = tmp_path / "one", tmp_path / "two"
    share(one, two, *KINDS)
    async with front_over(one, two) as front:
        await find_out(front, 1, 2)
        front.write(1, "input/x.png", RED)
        (two / "input").unlink()
        (two / "input").mkdir()
        file = FileName(filename="x.png", type="input")
        assert await front.gateway.staging.stage(file, front.instances[1], fresh=True)
        assert front.files("input/x.png") == [RED, RED]
        assert common(front)["input"] == ["1"]
        await find_out(front, 2)
        assert common(front) == {**ALL_OF_TWO, "input": []}


# --- what must not be taken for shared ------------------------------------------------------


def after_each_read(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    read = storage_probe._read

    async def wrapper(*arguments: Any) -> bytes:
        try:
            return await read(*arguments)
        finally:
            then()

    monkeypatch.setattr(storage_probe, "_read", wrapper)


def carry(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    for source, target in zip(sources, targets, strict=True):
        if (source / PROBE).is_file():
            shutil.copytree(source, target, dirs_exist_ok=True)


async def test_directories_that_a_program_keeps_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that arrive a little later, from either side, are copies: two pictures of one name."""
    one, two = ([tmp_path / name / kind for kind in KINDS] for name in ("one", "two"))

    def in_step() -> None:
        carry(one, two)
        carry(two, one)

    after_each_read(monkeypatch, in_step)
    async with front_over(tmp_path / "one", tmp_path / "two") as front:
        await find_out(front, 1, 2)
        assert common(front) == NOTHING
        assert (two[0] / PROBE).read_bytes() == (one[0] / PROBE).read_bytes()


async def test_a_copy_of_the_disk(tmp_path: Path) -> None:
    """An instance that comes back on a snapshot of what it shared shares nothing."""
    one, two = tmp_path / "one", tmp_path / "two"
    share(one, two, "input", "output")
    async with front_over(one, two) as front:
        await find_out(front, 1, 2)
        await front.take_away(2)
        for kind in ("input", "output"):
            (two / kind).unlink()
            shutil.copytree(one / kind, two / kind)
        await front.bring_back(2)
        await find_out(front, 2)
        assert common(front) == NOTHING


async def test_another_proxy_writes_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text instead of ours proves nothing: it is tried once more."""
    disturbed = set()
    read = storage_probe._read

    async def wrapper(instance: Any, kind: str, *more: Any) -> bytes:
        if kind not in disturbed:
            disturbed.add(kind)
            (tmp_path / kind / PROBE).write_text("Is this directory shared? 0123456789\n")
        return await read(instance, kind, *more)

    monkeypatch.setattr(storage_probe, "_read", wrapper)
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1, 2)
        assert common(front) == ALL_OF_TWO


async def test_an_instance_that_is_too_busy_to_say(tmp_path: Path) -> None:
    """Late answers prove nothing, cost no strike, and are asked for again after a while."""
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1)
        front.workers[1].faults.hang = ("/view",)
        discovery(front).heard(front.instances[1])
        task = discovery(front)._tasks[front.instances[1]]
        while not task.done():
            await clock(front).advance(0.3)
        assert common(front) == NOTHING
        assert not front.instances[1].failing
        front.workers[1].faults.clear()
        await find_out(front, 2)
        assert common(front) == NOTHING
        await clock(front).advance(RETRY_S)
        await find_out(front, 2)
        assert common(front) == ALL_OF_TWO


async def test_an_instance_that_cannot_write(tmp_path: Path) -> None:
    """A full disk is no answer to the question."""
    async with front_over(tmp_path, tmp_path) as front:
        front.workers[0].faults.disk_full = True
        await find_out(front, 1, 2)
        assert common(front) == NOTHING
        assert not front.instances[0].failing
        front.workers[0].faults.disk_full = False
        await clock(front).advance(RETRY_S)
        await find_out(front, 2)
        assert common(front) == ALL_OF_TWO


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("read", [1, 3, 4, 12])
async def test_one_that_was_away_while_it_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, read: int
) -> None:
    """What was found before an interruption counts for nothing; the next try finds it."""
    reads = 0

    def interrupt() -> None:
        nonlocal reads
        reads += 1
        if reads == read:
            front.instances[number - 1].socket_lost()
            assert front.instances[number - 1] not in storage(front).common("input")

    after_each_read(monkeypatch, interrupt)
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1, 2)
        assert reads >= read
        await find_out(front, 1, 2)
        assert common(front) == ALL_OF_TWO


async def test_nothing_goes_on_after_the_end(tmp_path: Path) -> None:
    """A question that nobody answers ends with the proxy."""
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1)
        front.workers[1].faults.hang = ("/",)
        discovery(front).heard(front.instances[1])
        await discovery(front).close()
        assert discovery(front)._tasks == {}
        discovery(front).heard(front.instances[1])
        assert discovery(front)._tasks == {}
        front.workers[1].faults.clear()


# --- what follows from it -------------------------------------------------------------------


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Front]:
    async with front_over(tmp_path, tmp_path) as front:
        await find_out(front, 1, 2)
        for worker in front.workers:
            worker.uploads.clear()
        yield front


async def test_an_upload_is_written_once(shared: Front) -> None:
    """Input, output or temp: no copy, and it can be viewed."""
    for kind in KINDS:
        await shared.upload(RED, type=kind)
        assert await shared.view(type=kind) == (200, RED)
        for instance in shared.instances:
            assert await shared.gateway.staging.stage(
                FileName(filename="x.png", type=kind), instance
            )
    assert [len(worker.uploads) for worker in shared.workers] == [3, 0]


async def test_whoever_shares_the_directory_answers_for_an_owner_that_is_away(
    tmp_path: Path,
) -> None:
    """One after the other, until one can be reached: all of them have the same file."""
    bases = (tmp_path, tmp_path, tmp_path)
    async with front_over(*bases, shared_storage="true") as front:
        front.write(1, "output/a/x.png", RED)
        for worker in front.workers[:2]:
            await worker.kill()
        assert await front.view(subfolder="@2/a") == (200, RED)


async def test_prefixes_of_before_are_understood(shared: Front) -> None:
    """Names that were told while nothing was known: in /view, also when their owner is away, and
    in graphs."""
    shared.write(1, "output/a/x.png", RED)
    assert await shared.view(subfolder="@2/a") == (200, RED)
    file = FileName(filename="x.png", subfolder="@2/a")
    assert await shared.gateway.staging.stage(file, shared.instances[0])
    assert shared.files("output/@2/a/x.png") == [RED, RED]
    await shared.take_away(2)
    assert await shared.view(subfolder="@2/a") == (200, RED)


async def test_a_bare_name_is_not_looked_for(shared: Front) -> None:
    """Whoever made it, the first that is there answers, with one request."""
    shared.write(2, "output/x.png", RED)
    kinds: list[str] = []
    for instance in shared.instances:
        instance.observers.append(lambda attempt: kinds.append(attempt.kind))
    assert await shared.view() == (200, RED)
    assert kinds == ["forward"]
    await shared.take_away(1)
    assert await shared.view() == (200, RED)


@pytest.mark.parametrize("kind", ["input", "output", "temp"])
async def test_a_file_is_never_copied_onto_itself(tmp_path: Path, kind: str) -> None:
    """``false`` on a disk that is shared all the same: it is read there, and not written again."""
    async with front_over(tmp_path, tmp_path, shared_storage="false") as front:
        await front.upload(RED, type=kind)
        await front.upload(BLUE, overwrite="true", type=kind)
        front.write(1, f"{kind}/own.png", RED)
        files = [FileName(filename=name, type=kind) for name in ("x.png", "own.png")]
        for instance in front.instances:
            for file in files:
                assert await front.gateway.staging.stage(file, instance, fresh=True)
        assert [len(worker.uploads) for worker in front.workers] == [2, 0]
        assert front.files(f"{kind}/x.png") == [BLUE, BLUE]


async def test_what_was_made_of_an_upload_since_is_left(shared: Front) -> None:
    """A file that somebody changed on the common disk is not put back after a restart; one that
    went with it is."""
    await shared.upload(RED)
    await shared.upload(RED, "t.png", type="temp")
    shared.write(1, "input/x.png", BLUE)
    await shared.take_away(2)
    await shared.bring_back(2)
    await find_out(shared, 2)
    for name, kind in (("x.png", "input"), ("t.png", "temp")):
        await shared.gateway.staging.stage(FileName(filename=name, type=kind), shared.instances[1])
    assert shared.files("input/x.png") == [BLUE, BLUE]
    assert shared.files("temp/t.png") == [RED, RED]


def clock(front: Front) -> ManualClock:
    clock = front.gateway.cluster.clock
    assert isinstance(clock, ManualClock)
    return clock
