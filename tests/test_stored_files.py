"""Files of workflows and of clients, opened in a browser: none of them acts as a page of ours."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict
from prompt_client import Http
from v2_client import V2

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.stored_files import confine

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
POLICY = "Content-Security-Policy"


@pytest.fixture
def v2(proxy: Http) -> V2:
    return V2(proxy)


@pytest.mark.parametrize(
    ("media_type", "confined"),
    [
        ("image/png", False),
        ("video/mp4", False),
        ("text/plain; charset=utf-8", False),
        ("image/svg+xml", True),
        ("Image/SVG+XML; charset=utf-8", True),
        ("text/html", True),
        ("application/xml", True),
        ("application/x-whatever", True),
        ("", True),
    ],
)
def test_what_may_be_a_page_is_confined(media_type: str, confined: bool) -> None:
    headers = CIMultiDict({"Content-Type": media_type})
    confine(headers)
    assert headers.getall(POLICY, []) == (["sandbox"] if confined else [])


async def test_a_result_an_upload_and_a_users_file_are_confined(
    v2: V2, proxy: Http, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """By ComfyUI's routes and by those of the Comfy API; the bytes are as they were."""
    workers[1].folders.base.joinpath("output", "x.svg").write_bytes(SVG)
    asset = await v2.upload(SVG, file_path="p.svg")
    async with proxy.post("/userdata/x.svg", data=SVG) as answer:
        assert answer.status == 200
    for address in (
        "/view?filename=x.svg&subfolder=@2&type=output",
        "/api/view?filename=x.svg&subfolder=@2&type=output",
        f"/api/v2/assets/{asset['id']}/content",
        "/userdata/x.svg",
        "/api/userdata/x.svg",
    ):
        async with proxy.get(address) as answer:
            assert (answer.status, await answer.read()) == (200, SVG), address
            assert answer.headers.getall(POLICY, []) == ["sandbox"], address
    async with proxy.head("/view?filename=x.svg&subfolder=@2&type=output") as answer:
        assert answer.headers[POLICY] == "sandbox"


async def test_a_page_of_comfyui_is_not_confined(proxy: Http) -> None:
    """Its own page runs scripts, or there would be none."""
    async with proxy.get("/") as answer:
        assert POLICY not in answer.headers
