"""Kinds of request about prompts: submitted, waiting, running, ended."""

from __future__ import annotations

import json

from graphs import Graph, colour, node, timed
from kinds import Kind, ask, at, send, zipped

IDS = tuple(f"0123abcd-0000-4000-8000-00000000000{number}" for number in range(10))


def saved(number: int) -> Graph:
    """A picture of one colour, as a file with a name of its own."""
    graph = colour(number, output="SaveImage")
    graph["2"]["inputs"]["filename_prefix"] = f"t/p{number}"
    return graph


def prompt(which: int, **more: object) -> dict[str, object]:
    return {"prompt": saved(which), "prompt_id": IDS[which], **more}


WORKFLOW = {"extra_pnginfo": {"workflow": {"id": "w", "nodes": []}}, "preview_method": "none"}
BAD_INPUT = {**saved(1), "2": node("SaveImage", images=["9", 0], filename_prefix="t/p")}
TWO_OUTPUTS = {**saved(4), "3": node("PreviewImage", images=["1", 0])}
HALF_BROKEN = {**saved(5), "3": node("PreviewImage", images=["7", 0])}

PROMPTS: tuple[Kind, ...] = (
    send("POST /prompt", prompt(1), name="prompt"),
    ask(
        f"GET /history/{IDS[1]}",
        after=IDS[1],
        keep={
            "file": at(IDS[1], "outputs", "2", "images", 0, "filename"),
            "subfolder": at(IDS[1], "outputs", "2", "images", 0, "subfolder"),
        },
    ),
    ask("GET /view?filename=$file&subfolder=$subfolder&type=output"),
    ask("GET /api/view?type=output&subfolder=$subfolder&filename=$file&preview=webp;80"),
    ask("HEAD /view?filename=$file&subfolder=$subfolder", "Range: bytes=3-", name="output, HEAD"),
    ask(
        "GET /view?filename=$file&subfolder=$subfolder", "Range: bytes=3-9", name="output, a range"
    ),
    ask("GET /view?filename=$file&subfolder=t", name="output, the plain name"),
    send(
        "POST /api/prompt",
        prompt(2, client_id="transparent", extra_data=WORKFLOW),
        name="prompt of a client",
    ),
    ask(f"GET /api/history/{IDS[2]}", after=IDS[2]),
    send(
        "POST /prompt",
        prompt(3, number=7),
        "User-Agent: t",
        "X-A: 1",
        "X-A: 2",
        name="prompt with a number",
    ),
    ask(f"GET /history/{IDS[3]}", after=IDS[3]),
    send(
        "POST /prompt",
        {
            "prompt": TWO_OUTPUTS,
            "prompt_id": IDS[4],
            "partial_execution_targets": ["2"],
            "front": True,
        },
        chunked=True,
        name="prompt at the front, a part of it, chunked",
    ),
    ask(f"GET /history/{IDS[4]}", after=IDS[4]),
    send(
        "POST /prompt",
        {"prompt": HALF_BROKEN, "prompt_id": IDS[5]},
        name="prompt, half of it valid",
    ),
    ask(f"GET /history/{IDS[5]}", after=IDS[5]),
    zipped("POST /prompt", prompt(6), "Expect: 100-continue", name="prompt, compressed"),
    ask(f"GET /history/{IDS[6]}", after=IDS[6]),
    send(
        "POST /prompt?a=%2F&b=+&a=",
        {"prompt": saved(7)},
        name="prompt without an id",
        keep={"made": at("prompt_id")},
    ),
    ask("GET /history/$made", name="history of the prompt without an id", after="$made"),
    send(
        "POST /prompt",
        {
            "prompt": {
                "1": node("FailNode", image=["2", 0], salt=1),
                "2": node("EmptyImage", width=8, height=8, batch_size=1, color=77),
                "3": node("PreviewImage", images=["1", 0]),
            },
            "prompt_id": IDS[8],
        },
        name="prompt that fails",
    ),
    ask(f"GET /history/{IDS[8]}", name="history of the prompt that fails", after=IDS[8]),
)

REFUSED: tuple[Kind, ...] = (
    send("POST /prompt", b"no JSON", name="prompt, no JSON"),
    send("POST /prompt", b"", name="prompt, empty"),
    send("POST /prompt", b"[1, 2]", name="prompt, a list"),
    send("POST /prompt", b'"text"', name="prompt, a text"),
    send("POST /prompt", b"null", name="prompt, null"),
    send("POST /prompt", {}, name="prompt, none in it"),
    send("POST /api/prompt", {"prompt": {}}, name="prompt, an empty graph"),
    send("POST /prompt", {"prompt": []}, name="prompt, a list for a graph"),
    send("POST /prompt", {"prompt": None}, name="prompt, null for a graph"),
    send("POST /prompt", {"prompt": {"1": {}}}, name="prompt, a node without a class"),
    send("POST /prompt", {"prompt": {"1": node("Nowhere")}}, name="prompt, an unknown class"),
    send("POST /prompt", {"prompt": {"1": saved(1)["1"]}}, name="prompt without an output"),
    send("POST /prompt", {"prompt": BAD_INPUT}, name="prompt with a bad link"),
    send(
        "POST /prompt", {"prompt": saved(1), "number": "first"}, name="prompt, the number is none"
    ),
    send(
        "POST /prompt",
        json.dumps({"prompt": {}}).encode("utf-16"),
        "Content-Type: application/json; charset=utf-16",
        name="prompt, in UTF-16",
    ),
    send("POST /prompt", b"\x1f\x8b broken", "Content-Encoding: gzip", name="prompt, broken gzip"),
    send("POST /prompt", b"{}", "Content-Encoding: rot13", name="prompt, an unknown coding"),
    send("PUT /prompt", {}),
    ask("DELETE /api/prompt"),
    ask("OPTIONS /prompt"),
    ask("POST /prompt", name="prompt without any body"),
)

RUNNING: tuple[Kind, ...] = (
    send(
        "POST /prompt",
        {"prompt": timed(30, 1, image="t.png"), "prompt_id": IDS[0], "client_id": "transparent"},
        name="prompt that takes long",
    ),
    ask("GET /queue", name="queue, one runs", running=IDS[0]),
    ask("GET /api/queue", name="queue, one runs, again"),
    ask("GET /prompt", name="one runs"),
    ask(f"GET /history/{IDS[0]}", name="history of what runs"),
    send(
        "POST /prompt",
        {"prompt": timed(30, 2, image="t (1).png"), "prompt_id": IDS[9]},
        name="a second prompt",
    ),
    ask("GET /queue", name="queue of two"),
    ask("GET /prompt", name="two wait or run"),
    send("POST /interrupt", {"prompt_id": IDS[8]}, name="interrupt another one"),
    send("POST /queue", {"delete": [IDS[8], "unknown"]}, name="delete others"),
    send("POST /interrupt", {"prompt_id": IDS[0]}, name="interrupt it"),
    ask(f"GET /history/{IDS[0]}", name="history of the interrupted", after=IDS[0]),
    send("POST /api/interrupt", b"", name="interrupt all", running=IDS[9]),
    ask(f"GET /history/{IDS[9]}", name="history of the second", after=IDS[9]),
)

VIEWS: tuple[Kind, ...] = (
    ask("GET /queue"),
    ask("GET /api/queue?x=1"),
    ask("HEAD /queue"),
    ask("GET /prompt", "Accept-Encoding: gzip"),
    ask("HEAD /api/prompt"),
    ask("GET /history"),
    ask("GET /api/history?max_items=2"),
    ask("GET /history?max_items=2&offset=1"),
    ask("GET /history?offset=3"),
    ask("GET /history?max_items=0"),
    ask("GET /history?max_items=many"),
    ask("HEAD /history?max_items=1"),
    ask("GET /history/unknown"),
    ask("GET /history/a%2Fb"),
    ask("GET /history/a%20b?x=%2F"),
    ask(f"HEAD /history/{IDS[1]}"),
    ask("PUT /history"),
    ask("DELETE /queue"),
    ask("PROPFIND /api/queue"),
    send("POST /queue", b"no JSON", name="queue, no JSON"),
    send("POST /queue", [], name="queue, a list"),
    send("POST /queue", {"delete": 5}, name="queue, no list"),
    send("POST /queue", {"delete": ["unknown"]}, name="queue, delete"),
    zipped("POST /api/queue", {"clear": True}, name="queue, clear, compressed"),
    send("POST /history", b"no JSON", name="history, no JSON"),
    send("POST /history", {"delete": [IDS[1], "unknown"]}, name="history, delete"),
    send("POST /history", {"delete": None}, name="history, delete null"),
    ask(f"GET /history/{IDS[1]}", name="history of the deleted"),
    send("POST /interrupt", {}, chunked=True, name="interrupt, nothing runs"),
    send("POST /interrupt", b"no JSON", name="interrupt, no JSON"),
    send("POST /interrupt", [1], name="interrupt, a list"),
    send("POST /interrupt", {"prompt_id": "unknown"}, name="interrupt, unknown"),
    ask("POST /interrupt", name="interrupt without a body"),
    ask("GET /interrupt"),
    send("POST /free", {"unload_models": True, "free_memory": False}),
    send("POST /api/free", b"no JSON", name="free, no JSON"),
    send("POST /free", {}, "Expect: 100-continue", name="free, 100"),
    ask("GET /free"),
    ask("GET /api/jobs"),
    ask("GET /api/jobs?limit=2&offset=1&status=completed"),
    ask("GET /api/jobs?limit=-1"),
    ask(f"GET /api/jobs/{IDS[2]}"),
    ask("GET /api/jobs/unknown"),
    ask("POST /api/jobs/unknown/cancel"),
    send("POST /api/jobs/cancel", {"job_ids": ["unknown"]}),
    ask("GET /jobs"),
    send("POST /api/history", {"clear": True}, name="history, clear"),
    ask("GET /history", name="history, cleared"),
)
