"""What is kept of instances' histories, after a restart: an instance takes nothing along, and what
clients have deleted stays deleted."""

from __future__ import annotations

import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from job_client import kill, until
from prompt_client import Json, get, graph, post
from prompts_of_clients import ended, heard, listening, living
from restarting import Restarting
from yarl import URL

from comfy_proxy import Settings
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.gateway.views.kept_entries import KeptEntries, KeptEntry
from comfy_proxy.keys import GATEWAY, STATE
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.state.kept_history import KEPT, KeptHistory
from comfy_proxy.state.sqlite_store import SqliteStore
from comfy_proxy.state.unread_ends import UNREAD


async def kept_at_each(proxy: Restarting) -> dict[str, Json]:
    """The history of two prompts, one of each instance, once both entries are in the file."""
    entries: dict[str, Json] = {}
    at = {}
    for color in (1, 2):
        prompt_id = await post(proxy.http, graph(color=color))
        entries[prompt_id] = await ended(proxy.http, prompt_id)
        await kept(proxy, prompt_id)
        at[prompt_id] = worker_of(proxy, prompt_id)
    assert set(at.values()) == {0, 1}
    return entries


async def kept(proxy: Restarting, prompt_id: str) -> None:
    """Return when what its instance says of it is in the file."""
    gateway = proxy.http.app[GATEWAY]
    await until(lambda: gateway.views.kept.find(prompt_id))
    await proxy.http.app[STATE].durable()


def worker_of(proxy: Restarting, prompt_id: str) -> int:
    return next(i for i, one in enumerate(proxy.workers) if prompt_id in one.executed)


def unnumbered(entry: Json) -> Json:
    """Numbers are told anew after a restart, the same to a few milliseconds."""
    number, *row = entry["prompt"]
    assert isinstance(number, int)
    return {**entry, "prompt": row}


async def missing(proxy: Restarting, path: str) -> tuple[Any, str | None]:
    """The JSON, and who could not be asked."""
    async with proxy.http.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json(), answer.headers.get("X-Comfy-Proxy-Missing")


@pytest.mark.long
@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_an_instance_that_died_with_the_proxy(proxy: Restarting, how: str) -> None:
    """Its prompts are shown as before, by id and in the list."""
    await proxy.start()
    before = await kept_at_each(proxy)
    if how == "killed":
        proxy.killed_now()
    await proxy.stop()
    await kill(proxy.workers[1])
    await proxy.start()
    [lost] = [one for one in before if worker_of(proxy, one) == 1]
    entry, who = await missing(proxy, f"/history/{lost}")
    assert (unnumbered(entry[lost]), who) == (unnumbered(before[lost]), "2")
    history, who = await missing(proxy, "/history")
    assert (list(history), who) == (list(before), "2")


async def test_an_instance_that_dies_after_the_proxy(proxy: Restarting) -> None:
    """The entries that an earlier process has read are shown, though this process has never asked
    for them."""
    await proxy.start()
    before = await kept_at_each(proxy)
    await proxy.restart()
    await proxy.restart()
    await kill(proxy.workers[0])
    [lost] = [one for one in before if worker_of(proxy, one) == 0]
    entry = await get(proxy.http, f"/history/{lost}")
    assert unnumbered(entry[lost]) == unnumbered(before[lost])


async def test_an_instance_that_was_started_again_meanwhile(proxy: Restarting) -> None:
    """It answers and has lost its history. No process has seen when, so the entries are shown all
    the same."""
    await proxy.start()
    before = await kept_at_each(proxy)
    await proxy.stop()
    await proxy.workers[0].kill()
    await proxy.workers[0].restart()
    await proxy.start()
    for prompt_id, entry in before.items():
        shown = await get(proxy.http, f"/history/{prompt_id}")
        assert shown[prompt_id]["outputs"] == entry["outputs"]
    assert set(await get(proxy.http, "/history")) == set(before)


async def test_files_that_are_anothers_by_now(proxy: Restarting) -> None:
    """Its files were written after the end of the prompt: the entry is shown no more, and deleted
    from the file."""
    await proxy.start()
    before = await kept_at_each(proxy)
    await proxy.stop()
    await proxy.workers[0].kill()
    await proxy.workers[0].restart()
    [old] = [one for one in before if worker_of(proxy, one) == 0]
    [output] = before[old]["outputs"].values()
    [file] = proxy.workers[0].folders.base.rglob(output["images"][0]["filename"])
    later = file.stat().st_mtime + 60
    os.utime(file, (later, later))
    await proxy.start()
    assert await get(proxy.http, f"/history/{old}") == {}
    await proxy.stop()
    await kill(proxy.workers[0])
    await proxy.start()
    assert await get(proxy.http, f"/history/{old}") == {}


@pytest.mark.long
@pytest.mark.parametrize("order", ["clear", "delete"])
async def test_what_clients_have_deleted_stays_deleted(proxy: Restarting, order: str) -> None:
    """Also an entry of an instance that is away."""
    await proxy.start()
    before = await kept_at_each(proxy)
    await proxy.restart()
    await kill(proxy.workers[1])
    body = {"clear": True} if order == "clear" else {"delete": list(before)}
    async with proxy.http.post("/history", json=body) as answer:
        assert answer.status == 200
    proxy.killed_now()
    await proxy.restart()
    for prompt_id in before:
        assert await get(proxy.http, f"/history/{prompt_id}") == {}


async def test_an_instance_that_is_not_configured_any_more(proxy: Restarting) -> None:
    """Its entries are forgotten for good, also if it is configured again; those of others are
    kept."""
    third = "http://localhost:9"
    await proxy.start()
    before = await kept_at_each(proxy)
    await proxy.restart(proxy.workers[1], third)  # type: ignore[arg-type]
    await proxy.stop()
    for worker in proxy.workers:
        await kill(worker)
    await proxy.start()
    found = {}
    for prompt_id in before:
        async with proxy.http.get(f"/history/{prompt_id}") as answer:
            found[worker_of(proxy, prompt_id)] = answer.status
    assert found == {0: 503, 1: 200}


async def test_one_instance_alone(proxy: Restarting) -> None:
    """What was kept is forgotten: clients of a single instance clear its history past the proxy."""
    await proxy.start()
    before = await kept_at_each(proxy)
    await proxy.restart(proxy.workers[0])
    await proxy.restart(*proxy.workers)
    assert not any(proxy.http.app[GATEWAY].views.kept.find(one) for one in before)


async def ends_unread(proxy: Restarting) -> tuple[str, int]:
    """A prompt whose end was told, and nothing more, when the proxy was killed; and where."""
    await proxy.start()
    for worker in proxy.workers:
        worker.faults.hang = ("/history",)
    async with listening(proxy.http, "me") as socket:
        prompt_id = await post(proxy.http, client_id="me")
        await heard(socket, "execution_success", prompt_id)
        await until(lambda: not living(proxy.http))
        await proxy.http.app[STATE].durable()
        proxy.killed_now()
    await proxy.stop()
    for worker in proxy.workers:
        worker.faults.clear()
    return prompt_id, worker_of(proxy, prompt_id)


async def test_killed_before_the_entry_was_read(proxy: Restarting) -> None:
    """The next process reads the entry, and keeps it."""
    prompt_id, at = await ends_unread(proxy)
    await proxy.start()
    await kept(proxy, prompt_id)
    await proxy.restart()
    await kill(proxy.workers[at])
    assert list(await get(proxy.http, f"/history/{prompt_id}")) == [prompt_id]


async def test_an_instance_that_died_with_an_unread_entry(proxy: Restarting) -> None:
    """Over any number of restarts its prompt is 503 while it is away, not unknown, until a client
    deletes it."""
    prompt_id, at = await ends_unread(proxy)
    await kill(proxy.workers[at])
    for _ in range(2):
        await proxy.start()
        async with proxy.http.get(f"/history/{prompt_id}") as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "unavailable")
        await proxy.stop()
    await proxy.start()
    async with proxy.http.post("/history", json={"delete": [prompt_id]}):
        pass  # its instance cannot be told
    await proxy.restart()
    assert await get(proxy.http, f"/history/{prompt_id}") == {}


@pytest.mark.long
@pytest.mark.parametrize("keep_files", [True, False])
async def test_an_instance_that_started_again_with_an_unread_entry(
    proxy: Restarting, *, keep_files: bool
) -> None:
    """Nobody knows any more what it has made: its prompt has failed with the reason, also after the
    next restart, until a client deletes it."""
    prompt_id, at = await ends_unread(proxy)
    await proxy.workers[at].restart(keep_files=keep_files)
    await proxy.start()
    wanted = proxy.http.app[GATEWAY].views.keeper.wanted
    await until(lambda: wanted.instance_of(prompt_id) is None)
    entry = (await get(proxy.http, f"/history/{prompt_id}"))[prompt_id]
    [[kind, told]] = entry["status"]["messages"]
    assert (kind, told["exception_type"]) == ("execution_error", "ResultsLostError")
    await proxy.restart()
    assert (await get(proxy.http, "/history"))[prompt_id]["status"] == entry["status"]
    async with proxy.http.post("/history", json={"delete": [prompt_id]}) as answer:
        assert answer.status == 200
    await proxy.restart()
    assert await get(proxy.http, f"/history/{prompt_id}") == {}


async def test_what_was_read_is_to_be_read_no_more(proxy: Restarting) -> None:
    """The file has either the entry, or that it is to be read."""
    await proxy.start()
    await kept_at_each(proxy)
    await proxy.stop()
    store = SqliteStore(proxy.settings["state_file"])
    assert await store.open()
    assert await store.entries(UNREAD) == []
    assert len(await store.entries(KEPT)) == 2
    await store.close()


# --- the file itself --------------------------------------------------------------------


CLUSTER = Cluster(Settings(instances=(URL("http://localhost:1"), URL("http://localhost:2"))))


def an_entry(name: str, *, own: Any = 7, size: int = 10) -> KeptEntry:
    before, after = b'"%s": {"prompt": [' % name.encode(), b"], %s}" % (b" " * size)
    return KeptEntry(
        prompt_id=name,
        instance=CLUSTER.instances[1],
        kept_at=5.0,
        ended_ms=12.5,
        own=own,
        split=len(before),
        packed=zlib.compress(before + after),
        packed_job=zlib.compress(b'{"id":1}'),
        files=(FileName(filename="é\udce9.png", subfolder="a", type="temp"),),
    )


@asynccontextmanager
async def keeping(path: Path, entries: KeptEntries) -> AsyncIterator[SqliteStore]:
    """``entries`` with what the file holds, and the file hears of them."""
    store = SqliteStore(path)
    assert await store.open()
    try:
        await KeptHistory(store, entries, CLUSTER, Ledger(CLUSTER.clock)).restore()
        yield store
    finally:
        await store.close()


async def test_all_of_an_entry_comes_back(tmp_path: Path) -> None:
    """Except for when it was read, which means nothing to another process."""
    entry = an_entry("a", own=2**70)
    async with keeping(tmp_path / "x", kept := KeptEntries()):
        kept.add(entry)
    async with keeping(tmp_path / "x", kept := KeptEntries()):
        found = kept.find("a")
        assert found is not None
        for name in ("prompt_id", "instance", "ended_ms", "own", "split", "files"):
            assert getattr(found, name) == getattr(entry, name)
        assert found.kept_at is None
        assert found.job() == entry.job()
        assert found.numbered(HistoryNumbers()) == entry.numbered(HistoryNumbers())


async def test_the_file_holds_what_is_kept(tmp_path: Path) -> None:
    """The oldest entries have left it, beyond the bound of their number; one that was kept anew is
    the newest. A later process restores the same, within its own bounds."""
    async with keeping(tmp_path / "x", kept := KeptEntries(max_entries=4)) as store:
        for name in "abcdeb":
            kept.add(an_entry(name))
        await store.flush()
        assert len(await store.entries(KEPT)) == 4
    async with keeping(tmp_path / "x", kept := KeptEntries(max_entries=3)) as store:
        assert list(kept._entries) == ["d", "e", "b"]
        await store.flush()
        assert len(await store.entries(KEPT)) == 3
        kept.clear()
        await store.flush()
        assert await store.entries(KEPT) == []


async def test_they_are_read_in_pieces(tmp_path: Path) -> None:
    """A batch has a hundred entries or a megabyte at most; a longer entry comes alone."""
    async with keeping(tmp_path / "x", KeptEntries()) as store:
        for number in range(250):
            store.put("short", str(number), b"1")
        for number in range(5):
            store.put("long", str(number), os.urandom(400_000))
        store.put("long", "5", longest := os.urandom(2_500_000))
        store.put("long", "6", b"")
        await store.flush()
        assert [len(batch) async for batch in store.batches("short")] == [100, 100, 50]
        batches = [batch async for batch in store.batches("long")]
        assert [[key for key, _ in batch] for batch in batches] == [
            ["0", "1"], ["2", "3"], ["4"], ["5"], ["6"]
        ]  # fmt: skip
        assert batches[3] == [("5", longest)]
        assert [batch async for batch in store.batches("none")] == []


@pytest.mark.parametrize("row", [b"", b"\0\0\0\2{}", b"\0\0\0\7no JSON"])
async def test_a_row_that_cannot_be_read(tmp_path: Path, row: bytes) -> None:
    """It is deleted, with an error in the log; the others are restored."""
    async with keeping(tmp_path / "x", kept := KeptEntries()) as store:
        kept.add(an_entry("a"))
        store.put(KEPT, "broken", row)
    async with keeping(tmp_path / "x", kept := KeptEntries()) as store:
        assert list(kept._entries) == ["a"]
        await store.flush()
        assert len(await store.entries(KEPT)) == 1
