"""gateway/custom/rules.py: whom a request of an unknown route concerns, one test for each rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from custom_front import CustomFront, custom_front
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.gateway.custom.fields import MAX_READ_BYTES
from comfy_proxy.gateway.files.file_name import file_at
from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import End
from comfy_proxy.ledger.states import Ending

PROMPT = "5a3c1f0e-0000-4000-8000-00000000000a"


@pytest.fixture
async def front() -> AsyncIterator[CustomFront]:
    async with custom_front() as made:
        yield made


# --- rows ----------------------------------------------------------------------------------------


async def test_a_row_of_the_user_decides_first(tmp_path: Path) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text(
        '[[route]]\nmethods = ["POST"]\npath = "/pack/reload/{name}"\nto = "broadcast"\n'
        '[[route]]\nmethods = ["GET"]\npath = "/pack/light"\nto = "balanced"\n'
        '[[route]]\nmethods = ["POST"]\npath = "/pack/plain"\nto = "primary"\n'
    )
    async with custom_front(routes_file=routes) as front:
        assert await front.ask("POST", "/api/pack/reload/x") == (200, "one")
        assert front.two.paths == ["POST /api/pack/reload/x"]
        front.instances[0].prompts.external_jobs = 1
        assert await front.ask("GET", "/pack/light") == (200, "two")
        front.hears(front.instances[1], id="picture-17")
        assert await front.ask("POST", "/pack/plain", json={"id": "picture-17"}) == (200, "one")


async def test_a_row_by_prompt_goes_to_who_has_it(tmp_path: Path) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text('[[route]]\nmethods = "GET"\npath = "/pack/of"\nto = "by_prompt"\n')
    async with custom_front(routes_file=routes) as front:
        front.runs(PROMPT, front.instances[1])
        assert await front.ask("GET", f"/pack/of?prompt={PROMPT}") == (200, "two")
        assert await front.ask("GET", "/pack/of") == (200, "one")


# --- what we named -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/vhs/view?filename=a.gif&subfolder=@2/clips&type=output", "subfolder=clips"),
        ("/vhs/view?filename=a.gif&subfolder=%402%2Fclips", "subfolder=clips"),
        ("/vhs/view?subfolder=@2&filename=a.gif", "subfolder=&"),
        ("/vhs/view?path=@2/clips/a.gif", "path=clips/a.gif"),
        ("/pack/output/@2/clips/a.gif", "/pack/output/clips/a.gif"),
    ],
)
async def test_a_name_that_we_gave_comes_back_in_the_address(
    front: CustomFront, given: str, sent: str
) -> None:
    assert await front.ask("GET", given) == (200, "two")
    assert front.one.paths == []
    assert sent in front.two.paths[0]
    assert "@2" not in front.two.paths[0]


async def test_a_name_that_we_gave_comes_back_in_a_body(front: CustomFront) -> None:
    """In JSON, in a form and in a form with files; all else keeps its bytes."""
    files = {"of": {"filename": "a.png", "subfolder": "@2/x"}, "url": "/view?subfolder=@2&x=1"}
    assert await front.ask("POST", "/pack/mask", json={**files, "n": 1e400, "big": 2**70}) == (
        200,
        "two",
    )
    assert b'"subfolder": "x"' in front.two.asked[-1][2]
    assert b"/view?subfolder=&x=1" in front.two.asked[-1][2]
    assert str(2**70).encode() in front.two.asked[-1][2]
    assert await front.ask("POST", "/pack/mask", data={"subfolder": "@2/x", "a": "1 2"}) == (
        200,
        "two",
    )
    assert front.two.asked[-1][2] == b"subfolder=x&a=1+2"
    form = aiohttp.FormData({"subfolder": "@2/x"})
    form.add_field("image", b"\x00@2/y", filename="@2/y.png")
    assert await front.ask("POST", "/pack/mask", data=form) == (200, "two")
    assert b"\r\n\r\nx\r\n" in front.two.asked[-1][2]
    assert b"\x00@2/y" in front.two.asked[-1][2]


@pytest.mark.parametrize("name", ["\\ud800", "\\udcff"])
async def test_a_name_without_bytes_in_utf_8_goes_where_it_belongs(
    front: CustomFront, name: str
) -> None:
    """In a URL of ``/view`` it is percent-encoded, which ``quote`` refuses to do."""
    raw = '{"u": "/view?subfolder=@2/' + name + '"}'
    assert await front.ask("POST", "/pack/x", data=raw.encode()) == (200, "two")
    assert b"@2" not in front.two.asked[0][2]


async def test_json_as_deep_as_can_be_read_goes_to_whom_it_names(front: CustomFront) -> None:
    raw = b'{"subfolder": "@2/x", "a": ' + b"[" * 800 + b"]" * 800 + b"}"
    assert await front.ask("POST", "/pack/x", data=raw) == (200, "two")


async def test_a_long_body_is_read_too(front: CustomFront) -> None:
    """In a thread: nobody waits behind it."""
    long = {"subfolder": "@2/x", "rest": ["y"] * 20_000}
    assert await front.ask("POST", "/pack/x", json=long) == (200, "two")
    assert front.two.asked[0][2].startswith(b'{"subfolder": "x"')


@pytest.mark.parametrize("at", ["@", "%40", "%2540", "%25%34%30", "%254%30", "%25%340"])
async def test_a_mark_in_a_url_in_the_query_is_one_however_it_is_encoded(
    front: CustomFront, at: str
) -> None:
    url = URL(f"/pack/x?u=/view?subfolder={at}2%252Fclips", encoded=True)
    assert await front.ask("GET", url) == (200, "two")
    assert "2%252Fclips" not in front.two.asked[0][1]


@pytest.mark.parametrize("text", ["@2", "@9/x", "me@2/x", "see @2/x"])
async def test_what_only_looks_like_a_mark_stays(front: CustomFront, text: str) -> None:
    assert await front.ask("POST", "/pack/say", json={"text": text}) == (200, "one")
    assert text.encode() in front.one.asked[0][2]


async def test_results_of_two_instances_in_one_request_are_refused(front: CustomFront) -> None:
    status, error = await front.ask("POST", "/pack/compare?subfolder=@1", json={"path": "@2/x.png"})
    assert status == 409
    assert error["code"] == "ambiguous_request"
    assert front.one.paths == front.two.paths == []


async def test_a_path_that_an_instance_told_of_leads_there(front: CustomFront) -> None:
    """``fullpath`` and its like have no mark."""
    file = file_at("a.gif", "clips", "output")
    front.gateway.files.made(file, front.instances[1])
    path = "/srv/comfy/output/clips/a.gif"
    assert await front.ask("GET", f"/pack/query?path={path}") == (200, "two")


async def test_a_prompts_id_leads_to_who_has_it(front: CustomFront) -> None:
    front.runs(PROMPT, front.instances[1])
    assert await front.ask("POST", "/pack/skip", json={"prompt_id": PROMPT}) == (200, "two")
    assert await front.ask("GET", f"/pack/{PROMPT}/state") == (200, "two")


async def test_of_a_path_without_end_the_beginning_counts(front: CustomFront) -> None:
    """Thousands of segments took some 50 ms, on the event loop."""
    front.runs(PROMPT, front.instances[1])
    assert await front.ask("GET", f"/{PROMPT}{'/x' * 2_000}") == (200, "two")
    assert await front.ask("GET", f"{'/x' * 2_000}/{PROMPT}") == (200, "one")


async def test_a_clients_id_leads_to_who_runs_its_prompt(front: CustomFront) -> None:
    front.runs(PROMPT, front.instances[1], client_id="me")
    assert await front.ask("POST", "/pack/skip", json={"clientId": "me"}) == (200, "two")
    assert await front.ask("POST", "/pack/skip?client_id=you") == (200, "one")


# --- replies -------------------------------------------------------------------------------------


async def test_a_reply_goes_to_the_node_that_asked(front: CustomFront) -> None:
    front.hears(front.instances[1], id="picture-17", urls=["/view?filename=a.png"])
    assert await front.ask("POST", "/pack/choose", json={"id": "picture-17"}) == (200, "two")
    assert await front.ask("POST", "/pack/choose/picture-17") == (200, "two")
    assert await front.ask("POST", "/pack/choose", data={"id": "picture-17"}) == (200, "two")
    assert await front.ask("GET", "/pack/choose?id=picture-17") == (200, "two")
    assert front.one.paths == []


async def test_common_words_and_bare_numbers_are_no_reply(front: CustomFront) -> None:
    """``temp`` and a size stand in many requests that have nothing to do with the node."""
    front.hears(front.instances[1], node=7, urls=[{"filename": "a_1.png", "type": "temp"}], n=512)
    for fields in ({"type": "temp"}, {"width": 512}, {"width": 7}):
        assert await front.ask("POST", "/pack/new", json=fields) == (200, "one")
    assert await front.ask("POST", "/pack/go", json={"node_id": 7}) == (200, "two")
    assert await front.ask("POST", "/pack/go/7") == (200, "two")


async def test_what_installs_is_the_primarys_whoever_runs_a_prompt(front: CustomFront) -> None:
    front.runs(PROMPT, front.instances[1], client_id="me")
    for path in ("/manager/queue/install", "/v2/manager/queue/task", "/api/lm/download-model"):
        assert await front.ask("POST", path, json={"client_id": "me"}) == (200, "one")


async def test_a_reply_in_json_in_a_form_is_read(front: CustomFront) -> None:
    """cg-image-filter: a field ``response`` with JSON, of which one value is that of its frame."""
    front.hears(front.instances[1], graph_id="g-17", node=7)
    answer = {"response": '{"graph_id": "g-17", "masked_image": "' + "x" * 5000 + '"}'}
    assert await front.ask("POST", "/cg-image-filter-message", data=answer) == (200, "two")
    form = aiohttp.FormData(answer, default_to_multipart=True)
    assert await front.ask("POST", "/cg-image-filter-message", data=form) == (200, "two")


async def test_the_same_node_of_two_clients_wakes_the_one_who_is_meant(front: CustomFront) -> None:
    """A client that names itself, by whatever name, is told apart."""
    one, two = front.instances
    front.hears(one, "me", node=7)
    front.hears(two, "you", node=7)
    assert await front.ask("POST", "/pack/go", json={"node": "7", "client_id": "you"}) == (
        200,
        "two",
    )
    assert await front.ask("POST", "/pack/go?sid=me", json={"node": 7}) == (200, "one")


async def test_a_reply_that_two_nodes_wait_for_is_refused(front: CustomFront) -> None:
    """To send it to both would wake somebody else's node."""
    for instance in front.instances:
        front.hears(instance, node=7)
    status, error = await front.ask("POST", "/pack/go", json={"node": "7"})
    assert status == 409
    assert error["details"] == {"instances": ["1", "2"]}
    assert "1 and 2" in error["error"]
    assert front.one.paths == front.two.paths == []


async def test_the_word_that_only_one_has_used_decides(front: CustomFront) -> None:
    one, two = front.instances
    front.hears(one, node=7, id="picture-1")
    front.hears(two, node=7, id="picture-2")
    assert await front.ask("POST", "/pack/go", json={"node": 7, "id": "picture-2"}) == (200, "two")


async def test_what_a_node_asked_is_over_with_its_prompt(front: CustomFront) -> None:
    """Else the same node of the next prompt, which runs elsewhere, could not be told apart."""
    one, two = front.instances
    front.runs(PROMPT, one)
    front.hears(one, node=7)
    end = End(ending=Ending.SUCCESS)
    front.gateway.ledger.apply(events.EndTold(prompt_id=PROMPT, instance=one, end=end))
    front.hears(two, node=7)
    assert await front.ask("POST", "/pack/go", json={"node": 7}) == (200, "two")


async def test_what_the_next_node_asked_is_not_over_with_the_prompt_before(
    front: CustomFront,
) -> None:
    """Nobody listens to that one: its end is told when the next one runs already."""
    two, ledger, other = front.instances[1], front.gateway.ledger, PROMPT.replace("a", "b")
    front.runs(PROMPT, two)
    first = ledger.find(PROMPT)
    assert first is not None
    front.hears(two, id="picture-16")
    clock = front.gateway.cluster.clock
    assert isinstance(clock, ManualClock)
    await clock.advance(1)
    front.runs(other, two)
    front.hears(two, id="picture-17")
    ledger.apply(events.Finished(prompt=first, end=End(ending=Ending.SUCCESS)))
    assert await front.ask("POST", "/pack/go", json={"id": "picture-16"}) == (200, "one")
    assert await front.ask("POST", "/pack/go", json={"id": "picture-17"}) == (200, "two")
    end = End(ending=Ending.SUCCESS)
    ledger.apply(events.EndTold(prompt_id=other, instance=two, end=end))
    assert await front.ask("POST", "/pack/go", json={"id": "picture-17"}) == (200, "one")


async def test_who_waits_for_a_reply_and_is_away_is_not_replaced(front: CustomFront) -> None:
    front.hears(front.instances[1], id="picture-17")
    front.away(front.instances[1])
    status, error = await front.ask("POST", "/pack/choose", json={"id": "picture-17"})
    assert (status, error["code"]) == (503, "unavailable")
    assert front.one.paths == []


# --- the rest ------------------------------------------------------------------------------------


async def test_a_put_is_done_by_all(front: CustomFront) -> None:
    assert await front.ask("PUT", "/memory/layer-1", data=b"bytes") == (201, "one")
    assert front.one.memory == front.two.memory == {"layer-1": b"bytes"}


async def test_a_put_is_answered_by_the_first_that_succeeds(front: CustomFront) -> None:
    front.one.status = 500
    assert await front.ask("PUT", "/pack/x", data=b"bytes") == (200, "two")
    front.two.status = 404
    assert await front.ask("PUT", "/pack/x", data=b"bytes") == (500, "one")


async def test_a_put_while_one_is_away_is_done_by_the_others(front: CustomFront) -> None:
    front.away(front.instances[0])
    assert await front.ask("PUT", "/memory/layer-1", data=b"bytes") == (201, "two")


async def test_a_read_goes_to_the_primary_and_on_to_who_has_it(front: CustomFront) -> None:
    front.two.memory["r-0"] = b"picture"
    assert await front.ask("GET", "/memory/r-0") == (200, b"picture")
    assert await front.ask("GET", "/memory/r-1") == (404, "two")
    assert await front.ask("GET", "/pack/list") == (200, "one")
    assert front.two.paths == ["GET /memory/r-0", "GET /memory/r-1"]
    front.one.status = 405  # an answer
    assert await front.ask("GET", "/pack/list") == (405, "one")
    assert await front.ask("HEAD", "/memory/r-0") == (200, b"")


async def test_what_is_nowhere_is_404_also_while_one_cannot_be_reached(front: CustomFront) -> None:
    await front.two.server.close()
    assert await front.ask("GET", "/memory/r-1") == (404, b"")


@pytest.mark.parametrize("path", ["/pack/restart", "/pack/x?path=@1/y"])
async def test_a_get_that_ends_the_process_ends_no_other(front: CustomFront, path: str) -> None:
    """It was done, and its connection broke off because of it: nor is it to be tried again."""
    front.one.dies = True
    status, error = await front.ask("GET", path)
    assert (status, error["code"]) == (502, "instance_unreachable")
    assert front.two.paths == []
    assert len(front.one.paths) == 1


async def test_a_body_that_is_too_long_to_be_read_passes_while_it_comes(
    front: CustomFront,
) -> None:
    """Nothing is kept of it here; one for all instances is, as each is to have it."""
    length = MAX_READ_BYTES + 1

    async def body(last: asyncio.Event) -> AsyncIterator[bytes]:
        yield bytes(length - 1)
        await last.wait()
        yield b"."

    headers = {"Content-Length": str(length)}
    asked = front.ask("POST", "/pack/load", data=body(front.one.begun), headers=headers)
    assert await asked == (200, "one")
    now = asyncio.Event()
    now.set()
    assert await front.ask("PUT", "/pack/load", data=body(now), headers=headers) == (200, "one")
    for pack, times in ((front.one, 2), (front.two, 1)):
        assert [len(body) for _, _, body in pack.asked] == [length] * times


async def test_a_change_that_concerns_nobody_known_is_the_primarys(front: CustomFront) -> None:
    for method in ("POST", "PATCH", "DELETE"):
        assert await front.ask(method, "/pack/x.png", data=b"1") == (200, "one")
    assert front.two.paths == []


async def test_a_socket_of_a_custom_node_stays_at_one_instance(front: CustomFront) -> None:
    front.hears(front.instances[1], id="stream-17")
    for path, name in (("/ws_of_pack", "one"), ("/ws_of_pack?id=stream-17", "two")):
        async with front.client.ws_connect(path) as ws:
            for word in ("a", "b"):
                await ws.send_str(word)
                assert await ws.receive_str() == f"{name}: {word}"
