"""gateway/prompts/posting.py, posted.py, hung_prompts.py: a prompt on its way to an instance."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp.test_utils import make_mocked_request
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.bodies import ClientBody
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.context import CONTEXT, USER_HEADER, RequestContext
from comfy_proxy.gateway.prompts import hung_prompts, posted, posting
from comfy_proxy.gateway.prompts.hung_prompts import PAID_KEYS, is_paid, is_paid_in_turns
from comfy_proxy.gateway.prompts.posted import PostedPrompts
from comfy_proxy.gateway.prompts.posting import post_headers
from comfy_proxy.settings import Settings


def instances(clock: ManualClock, count: int) -> list[Instance]:
    """The last one has credentials of its own."""
    urls = [URL(f"http://gpu{number}:8188") for number in range(1, count)]
    urls.append(URL(f"http://operator:secret@gpu{count}:8188"))
    return [Instance(id=str(n), url=url, clock=clock) for n, url in enumerate(urls, 1)]


def asked(**headers: str) -> Any:
    transport = Mock(get_extra_info=lambda *_: ("127.0.0.1", 5))
    request = make_mocked_request("POST", "/prompt", headers=headers, transport=transport)
    request[CONTEXT] = RequestContext("test")
    return request


def test_headers_are_made_once_for_all_that_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 instances each took a tenth of a millisecond."""
    made: list[Instance] = []
    make = posting.prompt_headers

    def counted(request: Any, instance: Instance, settings: Settings) -> Any:
        made.append(instance)
        return make(request, instance, settings)

    monkeypatch.setattr(posting, "prompt_headers", counted)
    several = instances(ManualClock(), 300)
    headers = post_headers(asked(Accept="text/x"), several, Settings(instances=()))
    assert {headers[one]["Accept"] for one in several} == {"text/x"}
    assert len(made) == 1
    headers = post_headers(asked(Authorization="Basic Yg=="), several, Settings(instances=()))
    assert headers[several[0]]["Authorization"] == "Basic Yg=="
    assert "Authorization" not in headers[several[-1]]
    assert len(made) == 3


def test_each_gets_the_id_that_its_user_has_there() -> None:
    """With ``--multi-user`` a client is another user at each instance."""
    several = instances(ManualClock(), 3)
    request = asked(**{USER_HEADER: "me"})
    request[CONTEXT].user_at = lambda instance, user: f"{user} at {instance.id}"
    headers = post_headers(request, several, Settings(instances=()))
    assert [headers[one][USER_HEADER] for one in several] == ["me at 1", "me at 2", "me at 3"]


@pytest.mark.parametrize("place", [0, 95, 100, 105, 990])
@pytest.mark.parametrize("key", PAID_KEYS)
async def test_keys_of_paid_services_are_found_wherever_they_stand(
    place: int, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one piece that is looked through ends and the next one begins."""
    monkeypatch.setattr(hung_prompts, "SEARCHED_BYTES", 100)
    body = b"x" * place + key + b"x" * (1000 - place)
    assert await is_paid_in_turns(body) is is_paid(body) is True
    assert await is_paid_in_turns(b"x" * 1000) is is_paid(b"") is False


@pytest.mark.parametrize("blanks", [0, 3, 500])
@pytest.mark.parametrize("more", [{}, {"prompt_id": "mine"}])
async def test_a_large_prompt_without_an_id_gets_one_and_is_else_as_it_came(
    blanks: int, more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first member; what has one, or is no prompt, stays the same to a byte."""
    monkeypatch.setattr(posted, "LARGE_BYTES", 200)
    graph = {"1": {"class_type": "X", "inputs": {"text": "x" * 300}}}
    body = b" " * blanks + json.dumps({"prompt": graph, **more}).encode()
    sent, document = await taken_in(body)
    assert document is not None
    assert json.loads(sent) == {"prompt": graph, "prompt_id": document["prompt_id"], **more}
    if more:
        assert sent == body
    else:
        first = b'{"prompt_id": "%s", ' % document["prompt_id"].encode()
        assert sent == body.replace(b"{", first, 1)
    no_prompt = json.dumps({"prompt": ["x" * 300]}).encode()
    assert (await taken_in(no_prompt))[0] == no_prompt


async def taken_in(body: bytes) -> tuple[bytes, dict[str, Any] | None]:
    content: Any = Content(body)
    async with PostedPrompts().taken_in(ClientBody(content, 2**30), "utf-8") as taken:
        return taken


class Content:
    """A request's body that has come at once."""

    def __init__(self, body: bytes) -> None:
        self._left = [body, b""]

    async def readany(self) -> bytes:
        return self._left.pop(0) if self._left else b""

    def is_eof(self) -> bool:
        return len(self._left) < 2
