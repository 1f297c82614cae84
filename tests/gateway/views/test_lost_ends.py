"""Ends whose entries were lost: each view shows what is known of them, once."""

from __future__ import annotations

import pytest
from test_missing_instances import ends, kept, posted, read
from views_harness import Client, FakeInstance, Json, entry, finished, front, get, two_fakes

from comfy_proxy.gateway.events.clients import ConnectedClients
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.views import wanted_entries
from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending, State


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client has a socket, and hears the ends of its prompts."""
    monkeypatch.setattr(ConnectedClients, "listens", lambda self, client_id: True)


async def look(gateway: Gateway) -> None:
    """The second instance, which was in trouble, answers again."""
    second = gateway.cluster.instances[1]
    second.signs.troubled()
    gateway.views.keeper.look(second)
    await read(gateway)


async def only_one(client: Client) -> tuple[Json, Json]:
    """The entry and the job of the one prompt that there is, the same in the views of one and of
    all."""
    [(prompt_id, shown)] = (await get(client, "/history")).items()
    assert await get(client, f"/history/{prompt_id}") == {prompt_id: shown}
    [job] = (await get(client, "/api/jobs"))["jobs"]
    assert await get(client, f"/api/jobs/{prompt_id}") == job
    return shown, job


@pytest.mark.parametrize(
    ("ending", "kind", "status"),
    [
        (Ending.SUCCESS, "execution_error", "failed"),
        (Ending.ERROR, "execution_error", "failed"),
        (Ending.INTERRUPTED, "execution_interrupted", "cancelled"),
    ],
)
async def test_its_job_tells_the_same(heard: None, ending: Ending, kind: str, status: str) -> None:
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        ends(gateway, posted(gateway, "a"), ending)
        await look(gateway)
        shown, job = await only_one(client)
        [[told, data]] = shown["status"]["messages"]
        assert (told, job["status"]) == (kind, status)
        assert job["execution_end_time"] == data["timestamp"]
        assert job.get("execution_error") == (data if kind == "execution_error" else None)
        page = await get(client, f"/api/jobs?status={status}")
        assert page["pagination"]["total"] == 1


@pytest.mark.parametrize("order", [{"clear": True}, {"delete": ["a", "b"]}])
async def test_clients_delete_it(heard: None, order: Json) -> None:
    """Also before it was found out that it is lost."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        for name, late in (("b", False), ("a", True)):
            ends(gateway, posted(gateway, name))
            if late:
                await look(gateway)
                await only_one(client)
            async with client.post("/history", json=order) as answer:
                assert answer.status == 200
            await look(gateway)
            assert await get(client, "/history") == await get(client, f"/history/{name}") == {}
            assert (await get(client, "/api/jobs"))["jobs"] == []


async def test_another_prompt_of_its_id_takes_its_place(heard: None) -> None:
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        ends(gateway, posted(gateway, "a"))
        await look(gateway)
        await only_one(client)
        posted(gateway, "a")
        assert await get(client, "/history") == await get(client, "/history/a") == {}


async def test_one_that_its_instance_runs_still_is_not_lost(heard: None) -> None:
    """ComfyUI tells the end, and tidies its memory before it writes the entry."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        two.running = [entry("a")]
        ends(gateway, posted(gateway, "a"))
        for _ in range(wanted_entries.MAX_READS + 1):
            await look(gateway)
        two.running, two.history = [], {"a": finished("a", 1, 20)}
        await look(gateway)
        shown, job = await only_one(client)
        assert (shown["status"]["status_str"], job["status"]) == ("success", "completed")


async def test_one_that_somebody_has_deleted_there_is_not_lost(
    heard: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any trouble its process cannot have ended."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        second = gateway.cluster.instances[1]
        monkeypatch.setattr(second.signs, "troubled_since", lambda moment: False)
        ends(gateway, posted(gateway, "a"))
        for _ in range(wanted_entries.MAX_READS):
            gateway.views.keeper.look(second)
            await read(gateway)
        assert gateway.views.keeper.wanted.at(second) == []
        assert await get(client, "/history") == {}


@pytest.mark.parametrize("status", [500, 404])
async def test_an_answer_that_is_no_history_proves_nothing(heard: None, status: int) -> None:
    """A proxy of its own before an instance that starts may answer anything."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        two.status = status
        ends(gateway, posted(gateway, "a"))
        await look(gateway)
        two.status, two.history = 200, {"a": finished("a", 1, 20)}
        await look(gateway)
        assert (await only_one(client))[0]["status"]["status_str"] == "success"


async def test_an_end_that_the_history_told_is_not_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the two questions its process could end."""
    async with two_fakes() as (one, two), front(one, two) as (_, gateway):
        prompt = posted(gateway, "a")
        two.history = {"a": finished("a", 1, 20)}
        second = gateway.cluster.instances[1]
        monkeypatch.setattr(second.signs, "troubled_since", lambda moment: False)
        gateway.reconciler._look_at(second)
        await gateway.reconciler._lookers.over(second)
        await read(gateway)
        assert prompt.ended
        assert gateway.views.kept.find("a") is not None
        assert [path for _, path, _ in two.requests if path.startswith("/history/")] == []


@pytest.mark.parametrize("path", ["/history", "/history/a", "/api/jobs", "/api/jobs/a"])
@pytest.mark.parametrize("away", [False, True])
async def test_what_a_view_has_shown_does_not_run_again(path: str, away: bool) -> None:
    """Whether the instance has told it, or the proxy while that was away."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        await kept(gateway, two, "a")
        at = gateway.cluster.instances[1]
        assert gateway.lost_results.untold_at(at) == ["a"]
        if away:
            await two.stop()
        assert "a" in str(await get(client, path))
        assert gateway.lost_results.untold_at(at) == []


async def test_a_list_that_does_not_show_it_has_not_told_it() -> None:
    """It is on another page, or its end came while the list was made."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        await kept(gateway, two, "a", "b")
        two.running, two.history = [entry("a", 1, 5)], {"b": finished("b", 9, 30)}
        await get(client, "/api/jobs")
        await get(client, "/history?max_items=1")
        assert gateway.lost_results.untold_at(gateway.cluster.instances[1]) == ["a"]


async def test_one_that_was_told_nobody_and_never_read_begins_anew() -> None:
    """Its end was heard before that could be booked, and its process ended."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        await gateway.failover.close()  # it would be tried at once
        first = posted(gateway, "a", 7)
        end = End(ending=Ending.SUCCESS)
        second = gateway.cluster.instances[1]
        gateway.ledger.apply(events.EndTold(prompt_id="a", instance=second, end=end))
        gateway.ledger.apply(events.Lost(prompt=first, ran=True))
        assert first.ended
        await look(gateway)
        again = gateway.ledger.find("a")
        assert isinstance(again, Prompt)
        assert (again.state, again.post, again.number) == (State.MOVING, first.post, 7)
        assert again is not first
        queue = await get(client, "/queue")
        assert [row[1] for row in queue["queue_pending"]] == ["a"]
        assert await get(client, "/history/a") == {}


async def test_what_was_not_read_of_an_instance_that_is_removed(heard: None) -> None:
    """A success is forgotten, as one that was read; any other end is known."""
    async with FakeInstance() as one, FakeInstance() as two, front(one, two) as (client, gateway):
        await two.stop()
        for name, ending in (("a", Ending.SUCCESS), ("b", Ending.INTERRUPTED)):
            ends(gateway, posted(gateway, name), ending)
        gateway.cluster.instances.remove(gateway.cluster.instances[1])
        shown, job = await only_one(client)
        assert shown["status"]["messages"][0][0] == "execution_interrupted"
        assert (job["id"], job["status"]) == ("b", "cancelled")


async def test_a_success_at_an_instance_that_is_removed_which_nobody_was_told() -> None:
    """It runs once more elsewhere: its files have left with its instance."""
    async with two_fakes() as (one, two), front(one, two) as (_, gateway):
        await gateway.failover.close()
        await kept(gateway, two, "a")
        ends(gateway, posted(gateway, "b"))
        gateway.cluster.instances.remove(gateway.cluster.instances[1])
        moving = {one.prompt_id for one in gateway.ledger.transit}
        assert moving == {"a", "b"}
