"""Several results as one ZIP: names that differ, bytes that are the same each time."""

from __future__ import annotations

import asyncio
import gc
import io
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from made import result

from comfy_proxy.jobs.results.result_file import ResultFile, Results, close
from comfy_proxy.jobs.results.result_zip import zip_chunks, zip_etag, zip_size
from comfy_proxy.stored_bytes import StoredBytes


async def packed(results: Results) -> bytes:
    """The whole ZIP, which is as long as was told."""
    data = b"".join([piece async for piece in zip_chunks(results)])
    assert len(data) == zip_size(results)
    return data


async def names(*given: str) -> list[str]:
    data = await packed(tuple(result(f"{at}".encode(), name=one) for at, one in enumerate(given)))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        read = [archive.read(one) for one in archive.infolist()]
        assert read == [f"{at}".encode() for at in range(len(given))]
        return archive.namelist()


@pytest.mark.parametrize(
    ("given", "inside"),
    [
        (["a.png", "b.png"], ["a.png", "b.png"]),
        (["a.png", "a.png"], ["0-a.png", "1-a.png"]),
        (["a.png", "A.PNG"], ["0-a.png", "1-A.PNG"]),
        (["a", "a", "1-a"], ["0-a", "1-1-a", "1-a"]),
        (["1-a", "a", "a"], ["1-a", "1-1-a", "2-a"]),
        (["../a", "x/y"], [".._a", "x_y"]),
        (['"ä\n".txt', "日本.txt"], ['"ä\n".txt', "日本.txt"]),
    ],
)
async def test_each_has_its_own_name(given: list[str], inside: list[str]) -> None:
    """Also where upper and lower case are the same, and never a folder."""
    assert await names(*given) == inside


@pytest.mark.long
async def test_many_of_one_name() -> None:
    """Two thousand of them are packed at once."""
    assert len(set(await names(*["a.png"] * 2000))) == 2000


async def test_the_same_results_make_the_same_zip() -> None:
    """Byte for byte, so that its validator holds; other names or bytes have another one."""
    several = (result(b"1", name="a"), result(b"2", name="b"))
    again = (result(b"1", name="a"), result(b"2", name="b"))
    assert await packed(several) == await packed(again)
    assert zip_etag(several) == zip_etag(again)
    assert zip_etag(several) != zip_etag((result(b"1", name="a"), result(b"3", name="b")))
    assert zip_etag(several) != zip_etag((result(b"1", name="a"), result(b"2", name="c")))


async def large(data: bytes) -> ResultFile:
    """A result in a temporary file."""
    body = StoredBytes(memory_bytes=0)
    await body.write(data)
    return replace(result(name="large.mp4"), body=await body.finish())


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where temporary files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files_in(directory: Path) -> set[str]:
    return {one.name for one in directory.iterdir()}


async def test_no_second_copy_is_made(directory: Path) -> None:
    """A hundred clients that fetch a ZIP of a gigabyte at once take no disk, and no memory."""
    results = (await large(b"1" * 3_000_000), await large(b"2" * 3_000_000))
    before = files_in(directory)
    lengths = []
    async for piece in zip_chunks(results):
        lengths.append(len(piece))
        assert files_in(directory) == before
    assert sum(lengths) == zip_size(results)
    assert max(lengths) < 2_000_000


async def test_it_goes_on_when_the_results_are_dropped(directory: Path) -> None:
    """Whoever is being sent them gets those too that were not read yet; then the files go."""
    results = (await large(b"1" * 3_000_000), result(b"2"), await large(b"3" * 3_000_000))
    data = b""
    async for piece in zip_chunks(results):
        close(results)
        data += piece
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert [len(archive.read(one)) for one in archive.infolist()] == [3_000_000, 1, 3_000_000]
    assert files_in(directory) == set()


async def test_a_client_that_leaves_holds_nothing(directory: Path) -> None:
    """Neither a file nor a half-made archive, which would complain when it is collected."""
    results = (await large(b"1" * 3_000_000), await large(b"2" * 3_000_000))
    chunks = zip_chunks(results)
    assert await anext(chunks)
    close(results)
    await chunks.aclose()
    gc.collect()
    assert files_in(directory) == set()


async def test_a_client_that_leaves_while_a_thread_reads(directory: Path) -> None:
    """The thread's piece is waited for: it is not to read what is closed under it."""
    results = (await large(b"1" * 3_000_000), await large(b"2" * 3_000_000))
    fetching: asyncio.Task[None]

    async def fetch() -> None:
        async for _ in zip_chunks(results):
            fetching.cancel()

    fetching = asyncio.create_task(fetch())
    await asyncio.wait([fetching])
    assert fetching.cancelled()
    close(results)
    await asyncio.get_running_loop().shutdown_asyncgens()
    gc.collect()
    assert files_in(directory) == set()
