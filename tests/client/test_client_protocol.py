"""What the client does with answers, without any I/O: operations are driven by hand."""

from __future__ import annotations

import inspect
import json
import math
import os
import pty
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from httpx_sse import ServerSentEvent

from comfy_proxy.client import (
    ApiError,
    AsyncClient,
    AsyncJob,
    AsyncResult,
    Client,
    ClientError,
    InvalidValueError,
    Job,
    Policy,
    Result,
    UnreachableError,
)
from comfy_proxy.client import operations as ops
from comfy_proxy.client.downloads import safe_name, save
from comfy_proxy.client.effects import (
    Answer,
    Call,
    Do,
    Emit,
    NextChunk,
    Open,
    Send,
    Sleep,
    Steps,
)
from comfy_proxy.client.exchange import exchange
from comfy_proxy.client.submission import get_workflow, submit

POLICY = Policy(patience_s=1.0, max_wait_s=10.0)
ANSWERED = Answer(status=200, headers={})
GET = Call(method="GET", path="api/jobs/list")


def answer(document: Any = None, *, status: int = 200, **headers: str) -> Answer:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, headers=told, body=json.dumps(document).encode())


def drive(operation: Any, *answers: Answer | Exception | bytes | None) -> tuple[Any, list[Any]]:
    """The operation's value, and its effects; what is sent or read gets ``answers`` in turn."""
    steps, coming, effects = Steps(operation), iter(answers), []
    while not steps.done:
        effects.append(steps.effect)
        if isinstance(steps.effect, Sleep):
            steps.feed(None)
        elif isinstance(steps.effect, Do):
            steps.feed(steps.effect.function())
        elif isinstance(outcome := next(coming), Exception):
            steps.fail(outcome)
        else:
            steps.feed(outcome)
    return steps.value, effects


def slept(effects: list[Any]) -> list[float]:
    return [one.seconds for one in effects if isinstance(one, Sleep)]


@pytest.mark.parametrize("status", [429, 503])
def test_it_waits_as_long_as_the_proxy_says(status: int) -> None:
    full = answer({"error": "full", "code": "queue_full"}, status=status, retry_after="4")
    got, effects = drive(exchange(GET, POLICY), full, full, answer([]))
    assert got.status == 200
    assert slept(effects) == [4, 4]


def test_it_does_not_wait_longer_than_it_was_told_to() -> None:
    """Nor at all if the answer names no time, or says that it would not help."""
    full = answer({"error": "full", "code": "queue_full"}, status=503, retry_after="6")
    with pytest.raises(ApiError) as refused:
        drive(exchange(GET, POLICY), full, full)
    assert refused.value.retry_after_s == 6
    for other in (
        answer({"error": "no", "code": "no_instance"}, status=503),
        answer({"error": "no", "code": "workflow_unavailable"}, status=503, retry_after="1"),
        answer({"error": "no", "code": "job_not_ready"}, status=409, retry_after="1"),
    ):
        with pytest.raises(ApiError):
            drive(exchange(GET, POLICY), other)


def test_a_broken_connection_is_tried_again_with_growing_pauses() -> None:
    broken = UnreachableError("broken")
    _, effects = drive(exchange(GET, POLICY), broken, broken, broken, answer([]))
    assert slept(effects) == [0.1, 0.2, 0.4]
    with pytest.raises(UnreachableError):
        drive(exchange(GET, POLICY), *[broken] * 4)


def test_an_error_of_a_server_in_between_is_read_too() -> None:
    page = Answer(status=502, headers={"x-request-id": "r1"}, body=b"<html>Bad Gateway")
    with pytest.raises(ApiError) as error:
        drive(exchange(GET, POLICY), page)
    assert (error.value.status, error.value.code, error.value.request_id) == (502, "http_502", "r1")


def test_what_is_no_json_comes_from_somebody_else() -> None:
    for body in (b"<html>", b"[]", b"{}", b'{"jobs": [3]}', b'{"jobs": [{"status": "x"}]}'):
        page = Answer(status=200, headers={}, body=body)
        with pytest.raises(ClientError, match="something else") as error:
            drive(ops.list_jobs(POLICY, None, None), page)
        assert error.value.code == "not_the_proxy"


def test_who_knows_none_of_our_paths_is_not_the_proxy() -> None:
    """A page, or an error of a ComfyUI that nobody of ours has asked; what the proxy passes on from
    one is its word. To cancel there is not to find nothing."""
    for page in (
        Answer(status=404, headers={}, body=b"404: Not Found"),
        Answer(status=405, headers={"x-request-id": "r"}, body=b"<html>"),
        answer({"error": "Job not found"}, status=404),
    ):
        for asked in (ops.list_jobs(POLICY, None, None), ops.cancel_job("j", POLICY)):
            with pytest.raises(ApiError, match="No comfy_proxy answers") as error:
                drive(asked, page)
            assert (error.value.code, error.value.status) == ("not_the_proxy", page.status)
    for ours in (
        answer({"error": "gone", "code": "not_found"}, status=404),
        answer({"error": "Job not found"}, status=404, x_request_id="r"),
    ):
        assert drive(ops.cancel_job("j", POLICY), ours)[0] is False


@pytest.mark.parametrize(
    ("arisen", "told"),
    [(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong"), "http://"),
     (ssl.SSLCertVerificationError(1, "self-signed"), "not trusted"),
     (ssl.SSLError(1, "[SSL: NO_PROTOCOLS_AVAILABLE] x"), "no TLS connection")],
)  # fmt: skip
def test_tls_that_fails_is_not_tried_again(arisen: ssl.SSLError, told: str) -> None:
    """It would fail again; and somebody does answer."""
    arisen.reason = str(arisen.args[1]).partition(": ")[2].partition("]")[0]
    arisen.verify_message = "self-signed"  # type: ignore[attr-defined]
    client = Client("https://gpu:3000")

    def failing(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("tls", request=request) from arisen

    client._http = httpx.Client(transport=httpx.MockTransport(failing))
    with client, pytest.raises(ClientError, match=told) as error:
        client.jobs()
    assert (error.value.code, "https://gpu:3000" in str(error.value)) == ("tls_failed", True)


def test_all_results_are_found_in_their_order() -> None:
    told = [
        {"type": "video", "name": "clip.mp4", "media_type": "video/mp4", "size_bytes": 9},
        {"type": "image", "name": "last.png", "media_type": "image/png", "width": 3, "height": 2},
    ]
    status = {"job_id": "j", "status": "completed", "type": "clip", "results": told}
    found, _ = drive(ops.job_results("j", POLICY), answer(status))
    assert [(info.name, path) for info, path in found] == [
        ("clip.mp4", "api/jobs/j/result/0"),
        ("last.png", "api/jobs/j/result/1"),
    ]
    assert (found[1][0].width, found[1][0].height) == (3, 2)


def test_waiting_ends_with_the_job_though_each_question_ends_earlier() -> None:
    """Also of a proxy that answers at each change."""
    now = [0.0]

    def status(word: str) -> Answer:
        now[0] += 25.0
        return answer({"job_id": "j", "status": word, "type": "t"})

    policy = Policy(monotonic=lambda: now[0])
    steps = Steps(ops.wait_for_end("j", policy, 70.0))
    asked = []
    while not steps.done:
        assert isinstance(steps.effect, Send)
        asked.append(steps.effect.call.query["wait"])
        steps.feed(status("processing"))
    assert asked == ["60.000", "45.000", "20.000"]
    assert not steps.value.finished


def test_previews_are_pictures_between_the_events() -> None:
    """They have no id: a connection that breaks behind one goes on at the state before."""
    state = json.dumps({"job_id": "j", "status": "completed", "type": "t"})
    picture = json.dumps({"mime_type": "image/jpeg", "image_base64": "AAEC"})
    steps = Steps(ops.follow_job("j", POLICY, previews=True))
    opened = Answer(status=200, headers={})
    coming: list[Any] = [
        opened,
        ServerSentEvent(event="progress", data=state, id="7"),
        ServerSentEvent(event="preview", data=picture),
        UnreachableError("broken"),
        opened,
        ServerSentEvent(event="completed", data=state, id="8"),
    ]
    told, calls = [], []
    while not steps.done:
        if isinstance(steps.effect, Emit):
            told.append(steps.effect.value)
            steps.feed(None)
        elif isinstance(steps.effect, Sleep):
            steps.feed(None)
        else:
            calls += [steps.effect.call] if isinstance(steps.effect, Open) else []
            outcome = coming.pop(0)
            steps.fail(outcome) if isinstance(outcome, Exception) else steps.feed(outcome)
    assert [event.name for event in told] == ["progress", "preview", "completed"]
    assert (told[1].preview, told[1].preview_media_type) == (b"\x00\x01\x02", "image/jpeg")
    assert [call.headers.get("Last-Event-ID") for call in calls] == [None, "7"]
    assert calls[0].query == {"previews": "true"}


def test_several_files_go_to_the_parameters_in_their_order() -> None:
    """Asked of the proxy; one that is given by its name is left out."""
    workflow = answer({"name": "w", "file_parameters": ["image", "mask", "style"]})
    made = answer({"job_id": "j", "status": "pending", "type": "w"}, status=202)
    _, effects = drive(
        submit("w", [b"1", b"3"], {"mask": b"2", "seed": 7}, key="k", policy=POLICY), workflow, made
    )
    (call,) = [one.call for one in effects if isinstance(one, Send) and one.call.method == "POST"]
    assert {name: file.stream.closed for name, file in call.files.items()} == dict.fromkeys(
        ("mask", "image", "style"), True
    )
    assert call.form == {"seed": "7"}
    assert call.headers["Idempotency-Key"] == "k"
    with pytest.raises(ClientError, match="image, mask, style"):
        drive(submit("w", [b"1"] * 4, {}, key=None, policy=POLICY), workflow)


def test_without_a_file_it_is_json() -> None:
    """With numbers and truths as they are."""
    made = answer({"job_id": "j", "status": "pending", "type": "w"}, status=202)
    _, effects = drive(submit("w", [], {"seed": 7, "fast": True}, key=None, policy=POLICY), made)
    (call,) = [one.call for one in effects if isinstance(one, Send)]
    assert call.json == {"seed": 7, "fast": True}
    assert call.query == {"mode": "async"}


def test_a_download_that_breaks_begins_anew_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"before")
    opened, broken = Answer(status=200, headers={}), UnreachableError("broken")
    path, effects = drive(
        save("api/x", "name", target, POLICY), opened, b"ab", broken, opened, b"abc", b"d", None
    )
    assert path == target
    assert target.read_bytes() == b"abcd"
    assert [type(one) for one in effects if isinstance(one, Open | NextChunk)].count(Open) == 2
    with pytest.raises(UnreachableError):
        drive(save("api/x", "name", target, POLICY), *[opened, b"half", broken] * 4)
    assert target.read_bytes() == b"abcd"
    assert list(tmp_path.iterdir()) == [target]


def saved(target: Path) -> Path:
    """Where "abcd" is after it was saved to ``target``."""
    path, _ = drive(save("api/x", "name", target, POLICY), ANSWERED, b"ab", b"cd", None)
    assert isinstance(path, Path)
    return path


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    """Also one of a link, and one that leads to no file yet; one that leads to itself is told."""
    (tmp_path / "far").mkdir()
    real = tmp_path / "far" / "real.png"
    for name, leads_to in (("one", "far/real.png"), ("two", "one")):
        (tmp_path / name).symlink_to(leads_to)
    for before in (b"before", None):
        real.unlink(missing_ok=True)
        if before is not None:
            real.write_bytes(before)
        assert saved(tmp_path / "two") == tmp_path / "two"
        assert (tmp_path / "one").is_symlink()
        assert (tmp_path / "two").is_symlink()
        assert real.read_bytes() == b"abcd"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        saved(tmp_path / "round")
    assert {one.name for one in tmp_path.iterdir()} == {"far", "one", "two", "round"}
    assert list((tmp_path / "far").iterdir()) == [real]


def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    """A FIFO stays one, and whoever reads it gets all, once all is there; so a terminal does, also
    by a link."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for target in (tmp_path / "fifo", tmp_path / "link"):
        reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        try:
            broken = UnreachableError("broken")
            with pytest.raises(UnreachableError):
                drive(save("x", "n", target, POLICY), *[ANSWERED, b"half", broken] * 4)
            assert saved(target) == target
            assert os.read(reading, 100) == b"abcd"
        finally:
            os.close(reading)
    assert (tmp_path / "fifo").is_fifo()
    assert (tmp_path / "link").is_symlink()
    ours, other = pty.openpty()
    device = Path(os.ttyname(other))
    saved(device)
    assert os.read(ours, 100) == b"abcd"
    assert device.is_char_device()
    os.close(ours)
    os.close(other)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_fifo_is_waited_for_until_it_has_a_reader(tmp_path: Path) -> None:
    """By pauses, which can be interrupted."""
    os.mkfifo(tmp_path / "fifo")
    steps = Steps(save("api/x", "name", tmp_path / "fifo", POLICY))
    coming = iter((ANSWERED, b"abcd", None))
    pauses, reading = 0, None
    while not steps.done:
        if isinstance(steps.effect, Sleep):
            pauses += 1
            if pauses == 3:
                reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
            steps.feed(None)
        elif isinstance(steps.effect, Do):
            steps.feed(steps.effect.function())
        else:
            steps.feed(next(coming))
    assert (pauses, reading is None) == (3, False)
    assert os.read(reading or 0, 100) == b"abcd"
    os.close(reading or 0)


def test_a_folder_of_the_results_name_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        drive(save("api/x", "name", tmp_path, POLICY))


@pytest.mark.parametrize("name", ["図" * 75 + ".png", "図" * 85, "a" * 251 + ".png", "é" * 127])
def test_a_name_that_the_file_system_takes_is_taken(tmp_path: Path, name: str) -> None:
    """Its temporary name is none that would be too long, counted in bytes."""
    assert saved(tmp_path / name).read_bytes() == b"abcd"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("given", "name"),
    [("a.png", "a.png"), ("../../etc/x", "x"), ("..\\b.png", "b.png"), ("..", "result"),
     (".bashrc", "bashrc"), ("a\nb", "ab"), ("", "result")],
)  # fmt: skip
def test_a_name_leads_to_no_other_directory(given: str, name: str) -> None:
    assert safe_name(given) == name


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "http://",
        "http://h/?a=1",
        "http://[::",
        "",
        "http://h:99999",
        "h:0",
        "http://h:-1",
    ],
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(InvalidValueError) as wrong:
        Client(url)
    assert wrong.value.code == "invalid_url"


def test_a_key_that_no_header_can_carry_is_told() -> None:
    for key in ("one\ntwo", "é"):
        with pytest.raises(InvalidValueError, match="characters"):
            Client(api_key=key)


@pytest.mark.parametrize("limit", ["patience_s", "max_wait_s", "answer_timeout_s"])
def test_a_limit_that_is_no_number_is_told(limit: str) -> None:
    """NaN is above and below nothing: it would be no limit."""
    for number in (math.nan, -1.0):
        with pytest.raises(InvalidValueError) as wrong:
            Policy(**{limit: number})
        assert wrong.value.field == limit


def test_names_are_one_part_of_the_path() -> None:
    """Whatever is in them. Those that would lead elsewhere, or nowhere, are told."""
    status = answer({"job_id": "j", "status": "pending", "type": "w"})
    for name in ("a/b", "a/../b", "?x=1", "#x", "%2e%2e", "a b", "図"):
        _, (sent,) = drive(ops.job_status(name, POLICY), status)
        assert sent.call.path == f"api/jobs/{quote(name, safe='')}/status"
        base = httpx.URL("http://h:1/comfy/")
        url = base.copy_with(raw_path=base.raw_path + sent.call.path.encode())
        assert url.raw_path.decode() == f"/comfy/{sent.call.path}"
    for name in ("", ".", "..", "\udcff"):
        for operation in (
            ops.job_status(name, POLICY),
            ops.cancel_job(name, POLICY),
            ops.follow_job(name, POLICY, previews=False),
            ops.wait_for_end(name, POLICY, None),
            submit(name, [], {}, key=None, policy=POLICY),
            get_workflow(name, POLICY),
        ):
            with pytest.raises(InvalidValueError, match="is not the"):
                drive(operation)


@pytest.mark.parametrize(
    "arises",
    [
        lambda request: httpx.ConnectError("refused", request=request),
        lambda request: httpx.ReadTimeout("", request=request),
        lambda request: httpx.RemoteProtocolError("cut", request=request),
    ],
)
def test_what_the_network_does_is_unreachable(arises: Callable[..., Exception]) -> None:
    """With the address in the sentence, and no exception of httpx."""
    client = Client("gpu:3000", policy=Policy(patience_s=0))

    def failing(request: httpx.Request) -> httpx.Response:
        raise arises(request)

    client._http = httpx.Client(transport=httpx.MockTransport(failing))
    with client, pytest.raises(UnreachableError, match="http://gpu:3000"):
        client.jobs()


@pytest.mark.parametrize(
    ("plain", "awaited"), [(Client, AsyncClient), (Job, AsyncJob), (Result, AsyncResult)]
)
def test_both_clients_have_the_same_methods(plain: type, awaited: type) -> None:
    """With the same parameters and the same words about them."""

    def methods(kind: type) -> dict[str, Any]:
        return {
            name.replace("__aenter__", "__enter__").replace("__aexit__", "__exit__"): value
            for name, value in vars(kind).items()
            if inspect.isfunction(value)
        }

    ours, theirs = methods(plain), methods(awaited)
    assert ours.keys() == theirs.keys()
    for name, method in ours.items():
        other = theirs[name]
        assert method.__doc__ == other.__doc__
        assert list(inspect.signature(method).parameters.values()) == [
            one.replace(annotation=str(one.annotation).replace("Async", ""))
            if one.annotation is not inspect.Parameter.empty
            else one
            for one in inspect.signature(other).parameters.values()
        ]


@pytest.mark.long
def test_the_client_loads_nothing_of_the_server() -> None:
    """Whoever only submits needs neither Pillow nor aiohttp."""
    code = (
        "import sys\n"
        "absent = 'PIL aiohttp aiohttp_cors loguru orjson yarl prometheus_client typer rich'\n"
        "sys.modules.update(dict.fromkeys(absent.split()))\n"
        "from comfy_proxy.client import Client, AsyncClient\n"
        "Client('http://127.0.0.1:1').close()\n"
        "ours = [name for name in sys.modules if name.startswith('comfy_proxy.')]\n"
        "allowed = ('comfy_proxy.client', 'comfy_proxy.errors', 'comfy_proxy.version')\n"
        "assert all(name.startswith(allowed) for name in ours), ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_package_gives_its_names_when_they_are_used() -> None:
    """And no others."""
    import comfy_proxy

    assert {"Settings", "create_app", "setup", "load_settings", "keys"} <= set(dir(comfy_proxy))
    for name in comfy_proxy.__all__:
        assert getattr(comfy_proxy, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        comfy_proxy.nothing  # noqa: B018
