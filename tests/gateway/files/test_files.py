"""``/view`` is answered by the instance that has the file the client means."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from files_front import Front, picture, running_front
from yarl import URL

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.files.file_name import FileName

RED, BLUE = picture("red"), picture("blue")


@pytest.fixture
async def front(workers: tuple[EmbeddedWorker, EmbeddedWorker]) -> AsyncIterator[Front]:
    async with running_front(*workers) as front:
        yield front


@pytest.fixture
async def colours(front: Front) -> Front:
    """The same name on both: red on 1, blue on 2."""
    for path in ("output/x.png", "output/a/b/x.png", "temp/x.png"):
        front.write(1, path, RED)
        front.write(2, path, BLUE)
    return front


@pytest.mark.parametrize("kind", ["output", "temp"])
async def test_the_same_name_on_two_instances_is_two_pictures(colours: Front, kind: str) -> None:
    """A mark leads to its own instance's file, whatever the others have."""
    assert await colours.view(subfolder="@1", type=kind) == (200, RED)
    assert await colours.view(subfolder="@2", type=kind) == (200, BLUE)


async def test_subfolders_behind_a_prefix(colours: Front) -> None:
    """The rest of the marked subfolder is the subfolder at the owner."""
    assert await colours.view(subfolder="@1/a/b") == (200, RED)
    assert await colours.view(subfolder="@2/a/b/") == (200, BLUE)


async def test_the_rest_of_the_query_is_untouched(colours: Front) -> None:
    """Order, encoding and unknown parameters arrive byte for byte; only the mark is gone."""
    asked: list[str] = []
    request = "/api/view?rand=0.5&&subfolder=%402%2Fa%2fb&x=%7E+%2B&filename=x%2Epng&subfolder=no"
    forwarded = "/api/view?rand=0.5&&subfolder=a/b&x=%7E+%2B&filename=x%2Epng&subfolder=no"
    session = colours.gateway.cluster.connections.session(colours.instances[1])
    original = session._request

    async def spy(method: str, url: URL, **options: object) -> object:
        asked.append(str(url.raw_path_qs) if url.query_string else url.raw_path)
        return await original(method, url, **options)

    session._request = spy  # type: ignore[method-assign, assignment]
    async with colours.client.get(URL(request, encoded=True)) as answer:
        assert (answer.status, await answer.read()) == (200, BLUE)
    assert asked == [forwarded]


async def test_range_etag_and_head_are_the_owners(colours: Front) -> None:
    """Conditional, partial and HEAD requests get what the owner itself would give."""
    url = "/view?filename=x.png&subfolder=@2&type=output"
    async with colours.client.get(url, headers={"Range": "bytes=2-5"}) as answer:
        assert (answer.status, await answer.read()) == (206, BLUE[2:6])
        tag = answer.headers["ETag"]
    async with colours.client.get(url, headers={"If-None-Match": tag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    async with colours.client.head(url) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(BLUE)))
    async with colours.client.get(url, headers={"Range": f"bytes={len(BLUE)}-"}) as answer:
        assert answer.status == 416


async def test_preview_and_channel_are_the_owners(colours: Front) -> None:
    """A preview is made by the instance that has the picture."""
    async with colours.client.get("/view?filename=x.png&subfolder=@2&preview=webp;50") as answer:
        assert answer.headers["Content-Type"] == "image/webp"
        assert answer.headers["Content-Disposition"] == 'filename="x.png"'
    async with colours.client.get("/view?filename=x.png&subfolder=@2&channel=a") as answer:
        assert answer.headers["Content-Type"] == "image/png"


async def test_what_the_owner_lost_is_not_found(colours: Front) -> None:
    """A temp file that went with a restart is the owner's 404, though another has the name."""
    await colours.workers[1].restart()
    assert await colours.view(subfolder="@2", type="temp") == (404, b"")
    assert await colours.view(subfolder="@1", type="temp") == (200, RED)


async def test_an_owner_that_is_away_means_not_now(colours: Front) -> None:
    """503 with Retry-After, known to be away or not; never the other instance's picture."""
    await colours.workers[1].kill()
    url = "/view?filename=x.png&subfolder=@2"
    async with colours.client.get(url) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    await colours.take_away(2)
    async with colours.client.get(url) as answer:
        assert answer.status == 503
    assert await colours.view(subfolder="@1") == (200, RED)


async def test_an_owner_that_has_returned_is_asked_at_once(colours: Front) -> None:
    """Its circuit is open and cools down still: it is checked before anybody is told 503."""
    owner = colours.instances[1]
    while owner.healthy:
        owner.fault("said by the test")
    assert await colours.view(subfolder="@2") == (200, BLUE)
    assert owner.healthy


async def test_a_copy_answers_while_the_owner_is_away(colours: Front) -> None:
    """Who was given the file under its marked path answers for the owner."""
    file = FileName(filename="x.png", subfolder="@2")
    await colours.gateway.staging.stage(file, colours.instances[0])
    await colours.take_away(2)
    assert await colours.view(subfolder="@2") == (200, BLUE)


async def test_the_owner_answers_though_there_is_a_copy(colours: Front) -> None:
    """A copy never hides what the owner has now."""
    file = FileName(filename="x.png", subfolder="@2")
    await colours.gateway.staging.stage(file, colours.instances[0])
    colours.write(2, "output/x.png", RED)
    assert await colours.view(subfolder="@2") == (200, RED)


@pytest.mark.parametrize("number", [1, 2])
async def test_a_bare_name_that_one_has(front: Front, number: int) -> None:
    """Without a mark the one instance that has it answers."""
    front.write(number, "output/only.png", RED)
    front.write(number, "input/sub/in.png", BLUE)
    assert await front.view("only.png") == (200, RED)
    assert await front.view("only.png [output]", type="input") == (200, RED)
    assert await front.view("in.png", "sub", "input") == (200, BLUE)


async def test_a_bare_name_that_several_have(colours: Front) -> None:
    """The one who made it last by our records answers, without a record the first."""
    assert await colours.view() == (200, RED)
    record = FileName(filename="x.png")
    colours.gateway.files.makers.record(record, colours.instances[1], is_sure=False)
    assert await colours.view() == (200, BLUE)
    colours.gateway.files.makers.record(record, colours.instances[0], is_sure=False)
    assert await colours.view() == (200, RED)


async def test_a_bare_name_whose_maker_is_away(colours: Front) -> None:
    """The same name elsewhere may be another picture: not now."""
    colours.gateway.files.makers.record(
        FileName(filename="x.png"), colours.instances[1], is_sure=False
    )
    await colours.take_away(2)
    assert (await colours.view())[0] == 503


async def test_a_bare_name_that_nobody_has(front: Front) -> None:
    """ComfyUI's own 404, headers and all."""
    async with front.client.get("/view?filename=none.png") as answer:
        assert (answer.status, await answer.read()) == (404, b"")


async def test_the_prefix_of_an_annotated_name(colours: Front) -> None:
    """The name that a graph gives to an earlier result leads to its owner too."""
    for number, content in ((1, RED), (2, BLUE)):
        params = {"filename": f"@{number}/x.png [output]"}
        async with colours.client.get("/view", params=params) as answer:
            assert (answer.status, await answer.read()) == (200, content)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("filename=", 400),
        ("filename=/etc/passwd", 400),
        ("filename=../x.png&subfolder=@2", 400),
        ("filename=x.png&subfolder=@2/../../one/output", 403),
        ("filename=x.png&subfolder=@2/..", 200),  # ComfyUI's own: somewhere inside the directory
        ("filename=x.png&subfolder=../temp", 403),
        ("filename=x.png&subfolder=/etc", 403),
        ("filename=x.png&subfolder=@2//etc", 404),
        ("filename=x.png&type=secret", 400),
        ("filename=blake3:abc", 404),
    ],
)
async def test_what_names_no_file_is_the_primarys(colours: Front, query: str, status: int) -> None:
    """Refusals are ComfyUI's own, and no spelling of a mark leads out of a directory."""
    colours.write(1, "output/@2/y.png", RED)  # so that @2/.. can be walked
    async with colours.client.get(f"/view?{query}") as answer:
        assert answer.status == status
        assert await answer.read() in (b"", RED)


@pytest.mark.parametrize("kind", ["output", "temp"])
async def test_a_bare_name_whose_file_is_gone(colours: Front, kind: str) -> None:
    """Its maker has tidied up: another picture of that name is not what is meant."""
    colours.gateway.files.made(FileName(filename="x.png", type=kind), colours.instances[1])
    (colours.workers[1].folders.base / kind / "x.png").unlink()
    assert (await colours.view(type=kind))[0] == 404


async def test_a_copy_of_a_bare_name_whose_file_is_gone(front: Front) -> None:
    """One that was put there for a prompt is the same picture."""
    front.write(2, "output/x.png", BLUE)
    file = FileName(filename="x.png")
    front.gateway.files.made(file, front.instances[1])
    assert await front.gateway.staging.stage(file, front.instances[0])
    (front.workers[1].folders.base / "output/x.png").unlink()
    assert await front.view() == (200, BLUE)


async def test_a_gone_result_is_not_replaced_by_another_of_its_name(colours: Front) -> None:
    """A prompt that names it must not run where that means something else."""
    file = FileName(filename="x.png")
    colours.gateway.files.made(file, colours.instances[1])
    (colours.workers[1].folders.base / "output/x.png").unlink()
    assert not await colours.gateway.staging.stage(file, colours.instances[0])
    assert await colours.gateway.staging.stage(file, colours.instances[1])
