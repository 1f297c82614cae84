"""Several results as one ZIP: names that differ, bytes that are the same each time."""

from __future__ import annotations

import io
import zipfile

import pytest
from made import result

from comfy_proxy.jobs.results.result_zip import zip_etag, zip_of


async def names(*given: str) -> list[str]:
    packed = await zip_of(tuple(result(f"{at}".encode(), name=one) for at, one in enumerate(given)))
    with zipfile.ZipFile(io.BytesIO(await packed.read())) as archive:
        assert archive.testzip() is None
        read = [archive.read(one) for one in archive.infolist()]
        assert read == [f"{at}".encode() for at in range(len(given))]
        return archive.namelist()


@pytest.mark.parametrize(
    ("given", "packed"),
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
async def test_each_has_its_own_name(given: list[str], packed: list[str]) -> None:
    """Also where upper and lower case are the same, and never a folder."""
    assert await names(*given) == packed


async def test_many_of_one_name() -> None:
    """Two thousand of them are packed at once."""
    assert len(set(await names(*["a.png"] * 2000))) == 2000


async def test_the_same_results_make_the_same_zip() -> None:
    """Byte for byte, so that its validator holds; other names or bytes have another one."""
    several = (result(b"1", name="a"), result(b"2", name="b"))
    again = (result(b"1", name="a"), result(b"2", name="b"))
    first, second = await zip_of(several), await zip_of(again)
    assert await first.read() == await second.read()
    assert zip_etag(several) == zip_etag(again)
    assert zip_etag(several) != zip_etag((result(b"1", name="a"), result(b"3", name="b")))
    assert zip_etag(several) != zip_etag((result(b"1", name="a"), result(b"2", name="c")))
