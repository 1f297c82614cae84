"""Numbers of instances that were added while an earlier process ran."""

from __future__ import annotations

from pathlib import Path

from membership_front import add, instances, remove
from restarting import Restarting

from comfy_proxy.embedded.worker import EmbeddedWorker


async def test_one_that_was_added_has_its_number_after_a_restart(
    proxy: Restarting, tmp_path: Path
) -> None:
    """Once it stands in the configuration; ``@3`` in a name leads to it as before. And nobody gets
    the number of one that was removed."""
    third, fourth = (
        EmbeddedWorker(base_directory=tmp_path / name, name=name) for name in ("three", "four")
    )
    async with third, fourth:
        await proxy.start()
        assert (await add(proxy.http, third))["id"] == "3"
        await remove(proxy.http, "2")
        await proxy.restart(third, proxy.workers[0])
        assert [one.id for one in instances(proxy.http)] == ["3", "1"]
        assert (await add(proxy.http, fourth))["id"] == "4"
        assert (await add(proxy.http, proxy.workers[1]))["id"] == "2"


async def test_one_is_the_same_however_its_address_is_spelt(proxy: Restarting) -> None:
    """Its number and its drain are those of the instance, when it is added again and after a
    restart."""
    two = proxy.workers[1]
    other = f"localhost:{two.port}"
    await proxy.start()
    await remove(proxy.http, "2")
    assert (await add(proxy.http, other))["id"] == "2"
    async with proxy.http.post("/api/instances/2/drain") as answer:
        assert answer.status == 200
    await proxy.restart()
    assert [(one.id, one.drained) for one in instances(proxy.http)] == [("1", False), ("2", True)]
    assert instances(proxy.http)[1].host == two.host
    async with proxy.http.post("/api/instances/2/resume") as answer:
        assert answer.status == 200
    await proxy.restart()
    assert not any(one.drained for one in instances(proxy.http))
