"""``workflows``, ``jobs``, ``cancel``, ``status`` and ``drain`` as processes."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_process import PATIENCE_S, CommandLine, command_line
from job_client import JobClient

from comfy_proxy.keys import CLUSTER

pytestmark = pytest.mark.long


async def test_workflows_are_listed_and_described(command: CommandLine) -> None:
    """In a pipe with tabs between the cells."""
    said = await command("workflows")
    assert said.code == 0
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert rows[0] == ["workflow", "files", "title"]
    assert ["upscale-image", "image", "Upscale image"] in rows
    said = await command("workflows", "upscale-image")
    rows = [line.split("\t") for line in said.out.splitlines() if "\t" in line]
    assert ["image", "file (image)", "needed", ""] in rows
    (scale,) = [row for row in rows if row[0] == "scale"]
    assert scale[1:3] == ["number above 0 up to 8", "2"]
    (format_,) = [row for row in rows if row[0] == "format"]
    assert format_[1] == "one of PNG, JPEG, WEBP"
    assert "variant lanczos: runs on 127.0.0.1:" in said.out
    said = await command("workflows", "upscale")
    assert (said.code, "did you mean 'upscale-image'?" in said.err) == (2, True)


async def test_jobs_are_listed_and_cancelled(command: CommandLine, jobs: JobClient) -> None:
    """A job that there is not fails; the others are cancelled all the same."""
    done = await jobs.submit(seconds=0)
    await jobs.ends(done)
    bad = await jobs.submit("failing")
    await jobs.ends(bad)
    running = await jobs.submit(seconds=20)
    await jobs.reaches(running, "processing")
    said = await command("jobs")
    rows = {row[0]: row for row in (line.split("\t") for line in said.out.splitlines())}
    assert rows[done][1:3] == ["timed", "completed"]
    assert rows[bad][2].startswith("failed: FailNode")
    assert rows[running][2].startswith("processing")
    only = await command("jobs", "--status", "completed", "--workflow", "timed")
    assert [line.split("\t")[0] for line in only.out.splitlines()[1:]] == [done]
    said = await command("jobs", "--status", "gone")
    assert (said.code, "status is one of" in said.err) == (2, True)
    said = await command("cancel", "none", running)
    assert said.code == 1
    assert said.out.splitlines() == [
        "none: there is no such job",
        f"{running}: cancelled, and forgotten by the proxy",
    ]
    assert jobs.service.manager.find_job(running) is None


async def test_status_tells_instances_queue_and_jobs(command: CommandLine, jobs: JobClient) -> None:
    """With exit code 0 while one of them takes work."""
    running = await jobs.submit(seconds=20)
    await jobs.reaches(running, "processing")
    said = await command("status")
    assert said.code == 0
    lines = said.out.splitlines()
    assert re.fullmatch(
        r"healthy; 1 jobs run \(at most 6\), 0 wait; 0 completed, 0 failed; the proxy is up for .*",
        lines[0],
    )
    assert [line.split("\t")[1] for line in lines[2:4]] == ["healthy", "healthy"]
    assert any(line.startswith(running) for line in lines)
    for instance in ("1", "2"):
        assert (await command("drain", instance)).code == 0
    said = await command("status")
    assert said.code == 1
    assert [line.split("\t")[1] for line in said.out.splitlines()[2:4]] == ["draining"] * 2
    assert (await command("resume", "1")).code == 0
    assert (await command("status")).code == 0
    jobs.http.app[CLUSTER].instances[0].stands_still = True
    said = await command("status")
    assert (said.code, said.out.splitlines()[2].split("\t")[1]) == (1, "stands still: restart it")
    assert (await command("resume", "1")).code == 0
    assert (await command("status")).code == 0


async def test_watching_tells_each_change_until_it_is_interrupted(
    command: CommandLine, jobs: JobClient
) -> None:
    """A line for each, at once."""
    process = await command.start("status", "--watch")
    async with asyncio.timeout(PATIENCE_S):
        assert b"0 jobs run" in await process.stdout.readline()
        running = await jobs.submit(seconds=20)
        await jobs.reaches(running, "processing")
        while b"1 jobs run" not in await process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, err) == (130, b""), out


@pytest.mark.parametrize("words", [["workflows"], ["jobs"], ["cancel", "x"], ["status"]])
async def test_nobody_at_the_address_is_one_sentence(
    command: CommandLine, words: list[str]
) -> None:
    said = await command(*words, "--url", "http://127.0.0.1:1")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("comfy-proxy: Nothing answers at http://127.0.0.1:1")
    assert len(said.err.splitlines()) == 1


async def test_the_shell_is_offered_what_the_proxy_has(
    command: CommandLine, jobs: JobClient
) -> None:
    """Workflows, jobs and instances of the one that the line names, else of the environment's.
    Where nobody answers it is offered nothing, and told nothing."""

    async def offered(line: str, **environ: str) -> list[str]:
        asked = {"_COMFY_PROXY_COMPLETE": "complete_bash", "COMP_WORDS": f"comfy-proxy {line}"}
        said = await command(**asked, COMP_CWORD=str(len(line.split())), **environ)
        assert said.err == ""
        return said.out.split()

    ours, nobody = str(jobs.http.make_url("/")), "http://127.0.0.1:1"
    both = ["upscale-image", "upscale-remove-bg"]
    assert await offered("run up") == both
    assert await offered("run up", COMFY_PROXY_URL=nobody) == []
    assert await offered(f"run --url {ours} up", COMFY_PROXY_URL=nobody) == both
    assert await offered(f"run --url {nobody} up") == []
    job = await jobs.submit(seconds=0)
    assert await offered(f"cancel {job[:3]}") == [job]
    assert await offered("drain 1") == ["1"]
    assert await offered("jobs --status pe") == ["pending"]


async def test_a_proxy_server_that_cannot_be_used_is_one_sentence(command: CommandLine) -> None:
    said = await command("jobs", "--url", "http://gpu.invalid", ALL_PROXY="socks5://127.0.0.1:1")
    assert (said.code, len(said.err.splitlines())) == (1, 1)
    assert "proxy" in said.err


async def test_an_address_that_is_none_is_one_sentence(command: CommandLine) -> None:
    """By each command that speaks to a proxy, with exit code 2."""
    for url in ("ftp://x", "http://", "::::", "http://127.0.0.1:99999", "http://[::"):
        for words in (["jobs"], ["drain", "1"]):
            said = await command(*words, "--url", url)
            assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1), said
            assert "is no address" in said.err


async def test_a_name_that_is_none_is_one_sentence(command: CommandLine) -> None:
    for words in (["cancel", ""], ["cancel", ".."], ["drain", ""], ["remove", ".."]):
        said = await command(*words)
        assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1), said


async def test_settings_that_only_a_key_is_looked_for_in_may_be_wrong(
    command: CommandLine,
) -> None:
    """Those of the environment, which may be another program's; not a file that is named."""
    assert (await command("jobs", PORT="abc")).code == 0
    (command.folder / "wrong.toml").write_text("port = 'abc'\n")
    said = await command("jobs", "--config", "wrong.toml")
    assert (said.code, "PORT" in said.err) == (2, True)


async def test_a_missing_key_is_told_with_the_way_to_give_it(
    workers: Any, start_proxy: Callable[..., Any], tmp_path: Path
) -> None:
    """The same by each command."""
    front = await start_proxy(*workers, api_keys=("0123456789abcdef",))
    command = command_line(tmp_path, front.make_url("/"))
    sentences = set()
    for words in (["jobs"], ["drain", "1"], ["add", "gpu:1"], ["remove", "1"], ["status"]):
        said = await command(*words)
        assert (said.code, said.out, len(said.err.splitlines())) == (1, "", 1), said
        sentences.add(said.err)
    (sentence,) = sentences
    assert "wants a key: put it into COMFY_PROXY_API_KEY" in sentence


async def test_an_address_of_something_else_is_told(
    command: CommandLine, workers: Any, front: Any
) -> None:
    """A ComfyUI, a wrong path, TLS where there is none: by the address, and as what it is."""
    comfy, ours = f"http://{workers[0].host}", str(front.make_url("/"))
    for url in (comfy, f"{ours}wrong"):
        for words in (["jobs"], ["cancel", "x"], ["workflows"], ["status"], ["drain", "1"]):
            said = await command(*words, "--url", url)
            assert (said.code, said.out, len(said.err.splitlines())) == (1, "", 1), said
            assert "comfy_proxy answers" in said.err
            assert url in said.err
    said = await command("jobs", "--url", ours.replace("http:", "https:"))
    assert (said.code, "does not speak TLS: is its address http://" in said.err) == (1, True)
