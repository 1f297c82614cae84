"""``comfy-proxy run`` as a process, against a proxy in front of two workers."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from command_process import PATIENCE_S, CommandLine, command_line
from forwarder import forwarding
from job_client import JobClient, noise, open_picture, until, write_templates

from comfy_proxy.keys import REQUEST_OBSERVERS

pytestmark = pytest.mark.long

SECRET = "0123456789abcdef"


def photos(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(noise(20, 10))


async def test_each_file_of_a_folder_has_its_result(command: CommandLine) -> None:
    """Names are as short as they are different; each line tells where and how long."""
    photos(command.folder / "in", "a.png", "b.png", "b.jpg", ".hidden.png")
    said = await command("run", "upscale-image", "in", "-o", "out/", "-p", "scale=2")
    assert (said.code, said.err) == (0, "")
    out = command.folder / "out"
    assert sorted(os.listdir(out)) == [".comfy-proxy.jsonl", "a.png", "b.jpg.png", "b.png.png"]
    assert open_picture((out / "a.png").read_bytes()).size == (40, 20)
    lines = said.out.splitlines()
    assert len(lines) == 4
    for line in lines[:3]:
        assert re.fullmatch(r"in/\S+: done by 127.0.0.1:\d+ in [\d.]+ s -> out/\S+", line)
    assert lines[3] == "3 done, of 3"


async def test_what_is_done_is_skipped_if_it_is_of_the_same(
    command: CommandLine, jobs: JobClient
) -> None:
    """Not with other parameters, not of another file, not if its output is another or gone."""
    photos(command.folder / "in", "a.png", "b.png", "c.png")
    out = command.folder / "out"

    async def again(*words: str) -> str:
        said = await command("run", "upscale-image", "in", "-o", "out/", *words)
        assert said.code == 0
        return said.out.splitlines()[-1]

    assert await again() == "3 done, of 3"
    assert await again() == "0 done, 3 done before, of 3"
    assert await again("-p", "scale=3") == "3 done, of 3"
    photos(command.folder / "in", "a.png")
    (out / "b-2.png").unlink()
    (out / "c-2.png").write_bytes(b"half")
    assert await again("-p", "scale=3") == "3 done, of 3"
    (out / "b-2.png").unlink()
    assert await again("-p", "scale=3") == "1 done, 2 done before, of 3"
    assert await again("-p", "scale=3", "--again") == "3 done, of 3"
    names = ["a.png", "a-2.png", "b.png", "b-2.png", "c.png", "c-2.png", "c-3.png"]
    assert sorted(os.listdir(out)) == sorted([".comfy-proxy.jsonl", *names])
    assert (out / "c-2.png").read_bytes() == b"half"
    assert len(list(jobs.service.manager)) == 13


async def test_a_run_replaces_nothing_of_another_run(command: CommandLine) -> None:
    """Other parameters, the next name that is free; which of them are done is known of each. What
    the user has put there stays as well."""

    async def run(color: int, *words: str) -> list[str]:
        told = ("run", "drawn", "-p", f"color={color}", "-o", "out/", *words)
        said = await command(*told)
        assert (said.code, said.err) == (0, "")
        return said.out.splitlines()[:-1]

    out = command.folder / "out"
    for color, name in ((1, "drawn.png"), (2, "drawn-2.png")):
        (line,) = await run(color)
        assert f"-> out/{name}" in line
    assert line.endswith(" (out/drawn.png is another one)")
    first = (out / "drawn.png").read_bytes()
    assert open_picture(first).getpixel((0, 0)) == (0, 0, 1)
    assert await run(1) == ["drawn: done before -> out/drawn.png"]
    assert await run(2) == ["drawn: done before -> out/drawn-2.png"]
    (out / "drawn-3-1.png").write_bytes(b"mine")
    lines = await run(3, "--count", "3")
    assert {line.split(": ")[0] for line in lines} == {"drawn-1", "drawn-2", "drawn-3"}
    lines = await run(3, "-p", "pictures=2")
    assert "out/drawn-4-1.png, out/drawn-4-2.png" in lines[0]
    assert (out / "drawn.png").read_bytes() == first
    assert (out / "drawn-3-1.png").read_bytes() == b"mine"


async def test_what_is_done_stays_so_when_a_file_of_its_stem_joins(command: CommandLine) -> None:
    photos(command.folder / "in", "x.png")
    await command("run", "upscale-image", "in", "-o", "out/")
    photos(command.folder / "in", "x.jpg")
    said = await command("run", "upscale-image", "in", "-o", "out/")
    assert said.out.splitlines()[-1] == "1 done, 1 done before, of 2"
    names = sorted(os.listdir(command.folder / "out"))
    assert names == [".comfy-proxy.jsonl", "x.jpg.png", "x.png"]
    photos(command.folder / "in", "x.png")
    said = await command("run", "upscale-image", "in", "-o", "out/")
    assert "in/x.png: done by" in said.out
    assert sorted(os.listdir(command.folder / "out")) == names


async def test_a_folder_may_be_input_and_output_at_once(command: CommandLine) -> None:
    """Its results are no inputs of the next run, but of one that names one of them alone."""
    photos(command.folder / "same", "a.png", "b.png")
    results = ["a-upscale-image.png", "b-upscale-image.png"]
    for words in (["same"], ["same"], ["same/a.png", *(f"same/{name}" for name in results)]):
        said = await command("run", "upscale-image", *words, "-o", "same")
        assert said.code == 0
    assert said.out.splitlines()[-1] == "0 done, 1 done before, of 1"
    assert "2 results of earlier runs are no input here" in said.err
    names = [".comfy-proxy.jsonl", "a.png", "b.png", *results]
    assert sorted(os.listdir(command.folder / "same")) == sorted(names)
    said = await command("run", "upscale-image", f"same/{results[0]}", "-o", "same")
    assert (said.code, said.out.splitlines()[-1]) == (0, "1 done, of 1")
    for name in ("a.png", "b.png"):
        (command.folder / "same" / name).unlink()
    said = await command("run", "upscale-image", "same", "-o", "same")
    assert (said.code, "there is no other file" in said.err) == (2, True)


async def test_a_long_name_is_none_too_long(command: CommandLine) -> None:
    """Counted in bytes, with what is added to it."""
    name = "図" * 75
    photos(command.folder / "in", f"{name}.png", f"{'図' * 83}.png")
    said = await command("run", "upscale-image", "in", "-o", "out/", "--count", "2")
    assert (said.code, said.err) == (0, "")
    made = os.listdir(command.folder / "out")
    assert {f"{name}-1.png", f"{name}-2.png"} < set(made)
    assert len(made) == 5
    said = await command("run", "upscale-image", "in", "-o", f"{'a' * 256}.png")
    assert (said.code, "File name too long" in said.err) == (2, True)


async def test_one_result_goes_to_standard_output(command: CommandLine) -> None:
    """With nothing else in it. More than one is told before anything is run, if it can be known."""
    photos(command.folder / "in", "a.png", "b.png")
    for output in ("-", "/dev/stdout"):
        words = ("run", "upscale-image", "in/a.png", "-o", output)
        process = await command.start(*words)
        out, err = await process.communicate()
        assert process.returncode == 0
        assert open_picture(out).size == (40, 20)
        assert b"-> standard output\n1 done, of 1" in err
        with (command.folder / "there").open("wb") as there:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "comfy_proxy", *words),
                cwd=command.folder, env=command.environ,
                stdout=there, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            assert await process.wait() == 0
        assert (command.folder / "there").read_bytes() == out
    said = await command("run", "upscale-image", "in", "-o", "-")
    assert (said.code, "takes one result, and these are 2" in said.err) == (2, True)
    said = await command("run", "drawn", "-p", "color=1", "-p", "pictures=2", "-o", "-")
    assert (said.code, "takes one result, and these are 2" in said.err) == (1, True)
    assert said.out == ""
    assert sorted(os.listdir(command.folder)) == ["in", "there"]


async def test_a_fifo_is_written_into_and_a_link_stays(
    command: CommandLine, jobs: JobClient
) -> None:
    """While nobody reads it, the command waits and can be interrupted."""
    photos(command.folder, "a.png")
    os.mkfifo(command.folder / "fifo.png")
    process = await command.start("run", "upscale-image", "a.png", "-o", "fifo.png")
    async with asyncio.timeout(PATIENCE_S):
        read = await asyncio.to_thread((command.folder / "fifo.png").read_bytes)
        await process.communicate()
    assert process.returncode == 0
    assert open_picture(read).size == (40, 20)
    (done,) = jobs.service.manager
    assert (command.folder / "fifo.png").is_fifo()
    process = await command.start("run", "upscale-image", "a.png", "-o", "fifo.png")
    await until(lambda: [one for one in jobs.service.manager if one.id != done.id and one.finished])
    process.send_signal(signal.SIGINT)  # nobody reads it
    async with asyncio.timeout(PATIENCE_S):
        _, err = await process.communicate()
    assert (process.returncode, b"interrupted" in err) == (130, True)
    (command.folder / "far").mkdir()
    (command.folder / "link.png").symlink_to("far/real.png")
    said = await command("run", "upscale-image", "a.png", "-o", "link.png")
    assert said.code == 0
    assert (command.folder / "link.png").is_symlink()
    assert (command.folder / "far" / "real.png").read_bytes() == read
    (command.folder / "lost.png").symlink_to("gone/real.png")
    said = await command("run", "upscale-image", "a.png", "-o", "lost.png")
    assert (said.code, "there is no folder" in said.err) == (2, True)


async def test_a_record_that_is_broken_off_loses_no_other(command: CommandLine) -> None:
    """As a power cut leaves it."""
    photos(command.folder / "in", "a.png", "b.png")
    await command("run", "upscale-image", "in", "-o", "out/")
    book = command.folder / "out" / ".comfy-proxy.jsonl"
    lines = book.read_text().splitlines()
    book.write_text(f"{lines[0]}\n{lines[1][:20]}")
    said = await command("run", "upscale-image", "in", "-o", "out/")
    assert said.out.splitlines()[-1] == "1 done, 1 done before, of 2"
    said = await command("run", "upscale-image", "in", "-o", "out/")
    assert said.out.splitlines()[-1] == "0 done, 2 done before, of 2"


async def test_a_broken_file_fails_alone(command: CommandLine) -> None:
    """So does one that is not there, and a job that fails; all are told of at the end."""
    photos(command.folder / "in", "a.png", "b.png")
    (command.folder / "in" / "broken.png").write_bytes(noise(20, 10)[:-30])
    said = await command("run", "upscale-image", "in", "missing.png", "-o", "out/")
    assert said.code == 1
    assert said.out.splitlines()[-1] == "2 done, 2 failed, of 4"
    report = [line for line in said.err.splitlines() if line.startswith("failed: ")]
    assert len(report) == 2
    assert any("in/broken.png: The picture in image" in line for line in report), report
    assert any("missing.png" in line and "No such file" in line for line in report)
    said = await command("run", "failing", "in/a.png", "-o", "x.png")
    assert (said.code, "FailNode" in said.err) == (1, True)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_cancels_what_is_not_done_and_keeps_what_is(
    command: CommandLine, jobs: JobClient, number: int
) -> None:
    """At the proxy nothing of it is left; the same command then does the rest."""
    photos(command.folder / "in", *(f"{n:02}.png" for n in range(12)))
    words = ("run", "timed", "in", "-o", "out/", "-p", "seconds=0.3")
    process = await command.start(*words)
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(3):
            await process.stdout.readline()
        process.send_signal(number)
        _, err = await process.communicate()
    assert process.returncode == 130
    told = re.fullmatch(
        r"comfy-proxy: interrupted: (\d+) done, (\d+) not done, of 12; .*\n", err.decode()
    )
    assert told, err
    done = int(told[1])
    kept = [name for name in os.listdir(command.folder / "out") if not name.startswith(".")]
    assert len(kept) == done >= 3
    assert not [name for name in os.listdir(command.folder / "out") if name.endswith(".part")]
    assert [one for one in jobs.service.manager if not one.finished] == []
    said = await command(*words)
    assert said.out.splitlines()[-1] == f"{12 - done} done, {done} done before, of 12"


async def test_several_jobs_are_in_flight(command: CommandLine, jobs: JobClient) -> None:
    """As many as keep both instances busy: three each."""
    photos(command.folder / "in", *(f"{n}.png" for n in range(9)))
    most = 0

    def look(_: object) -> None:
        nonlocal most
        most = max(most, sum(not one.finished for one in jobs.service.manager))

    jobs.service.manager.on_changed.append(look)
    said = await command("run", "timed", "in", "-o", "out/", "-p", "seconds=0.2")
    assert said.code == 0
    assert most == 6
    assert len({one.instance for one in jobs.service.manager}) == 2


async def test_a_job_that_the_proxy_has_forgotten_is_submitted_again(
    command: CommandLine, jobs: JobClient, workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """As after a restart without a STATE_FILE; a job that somebody has cancelled is not."""
    photos(command.folder, "a.png")
    words = ("run", "timed", "a.png", "-o", "x.png", "-p", "seconds=1")
    templates = jobs.service.settings.workflow_directory
    restarted = await start_proxy(*workers, workflow_directory=templates)
    async with forwarding(str(jobs.http.make_url("/"))) as (line,):
        process = await command.start(*words, "--url", line.url)
        await until(lambda: list(jobs.service.manager))
        (job,) = jobs.service.manager
        await jobs.reaches(job.id, "processing")
        line._target = restarted.make_url("/")
        for writer in tuple(line._open):
            writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"1 done, of 1" in out
    (again,) = JobClient(restarted).service.manager
    assert again.id != job.id
    await jobs.delete(job.id)
    process = await command.start(*words)
    await until(lambda: list(jobs.service.manager))
    (job,) = jobs.service.manager
    await jobs.reaches(job.id, "processing")
    await jobs.delete(job.id)
    async with asyncio.timeout(PATIENCE_S):
        _, err = await process.communicate()
    assert (process.returncode, b"cancelled" in err) == (1, True)


async def test_a_workflow_without_a_file_runs_as_often_as_is_said(command: CommandLine) -> None:
    """Several results of one job are numbered; the same command goes on after an interruption."""
    words = ("run", "drawn", "-p", "color=255", "-p", "pictures=2", "--count", "3", "-o", "out/")
    said = await command(*words)
    assert (said.code, said.err) == (0, "")
    names = [f"drawn-{copy}-{number}.png" for copy in (1, 2, 3) for number in (1, 2)]
    assert sorted(os.listdir(command.folder / "out")) == [".comfy-proxy.jsonl", *names]
    assert (await command(*words)).out.splitlines()[-1] == "0 done, 3 done before, of 3"
    said = await command("run", "drawn", "-p", "color=9", "-o", "one.png")
    assert said.code == 0
    assert open_picture((command.folder / "one.png").read_bytes()).size == (8, 6)
    said = await command("run", "drawn", "-o", "one.png")
    assert (said.code, "needs --param color=" in said.err) == (2, True)


async def test_a_second_file_is_given_by_its_name(command: CommandLine) -> None:
    """To each of the others."""
    photos(command.folder / "in", "a.png", "b.png")
    photos(command.folder, "m.png")
    said = await command("run", "masked", "in", "--file", "mask=m.png", "-o", "out/")
    assert (said.code, said.err) == (0, "")
    for name in ("a.png", "b.png"):
        assert open_picture((command.folder / "out" / name).read_bytes()).mode == "RGBA"
    said = await command("run", "masked", "in", "-o", "out/")
    assert (said.code, "--file mask=…" in said.err) == (2, True)


async def test_one_result_goes_to_a_file(command: CommandLine) -> None:
    """Which is replaced; never an input, neither by its name nor in its folder."""
    photos(command.folder, "a.png")
    before = (command.folder / "a.png").read_bytes()
    for scale in (2, 3):
        said = await command("run", "upscale-image", "a.png", "-o", "x.png", "-p", f"scale={scale}")
        assert said.code == 0
        assert open_picture((command.folder / "x.png").read_bytes()).width == 20 * scale
    said = await command("run", "upscale-image", "a.png", "-o", "./a.png")
    assert (said.code, "is an input" in said.err) == (2, True)
    said = await command("run", "upscale-image", "a.png", "-o", ".")
    assert said.code == 0
    assert (command.folder / "a-upscale-image.png").exists()
    assert (command.folder / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [(("upscale-imag", "a.png"), "did you mean 'upscale-image'?"),
     (("nothing-like-it", "a.png"), "there is image-to-image, remove-background"),
     (("upscale-image", "a.png", "-p", "scal=2"), "did you mean 'scale'?"),
     (("upscale-image", "a.png", "-p", "scale"), "NAME=VALUE"),
     (("upscale-image", "a.png", "-p", "image=x"), "--file image=…"),
     (("upscale-image", "a.png", "-p", "scale=99"), "scale must be a number"),
     (("upscale-image",), "needs a file"),
     (("upscale-image", "a.png", "--file", "mask=a.png"), "no file parameter 'mask'"),
     (("upscale-image", "*.webp"), "there is no file in *.webp"),
     (("upscale-image", "empty"), "there is no file in empty"),
     (("upscale-image", "a.png", "--count", "0"), "--count"),
     (("upscale-image", "a.png", "-o", "none/x.png"), "there is no folder none"),
     (("upscale-image", "a.png", "-o", ""), "-o is empty"),
     (("upscale-image", "a.png", "--count", "2", "-o", "a.png"), "which 2 results need"),
     (("upscale-image", "a.png", "-o", "a.png/"), "is there, and is no folder")],
)  # fmt: skip
async def test_a_mistake_is_told_in_one_sentence(
    command: CommandLine, jobs: JobClient, words: tuple[str, ...], told: str
) -> None:
    """Before anything is made, with exit code 2."""
    photos(command.folder, "a.png")
    (command.folder / "empty").mkdir()
    output = () if "-o" in words else ("-o", "x.png")
    said = await command("run", *words, *output)
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    assert told in said.err
    assert list(jobs.service.manager) == []
    assert not (command.folder / "x.png").exists()


async def test_nobody_at_the_address_is_told_at_once(command: CommandLine) -> None:
    said = await command("run", "upscale-image", "a.png", "-o", "x.png", "--url", "127.0.0.1:1")
    assert (said.code, said.out) == (1, "")
    assert re.fullmatch(r"comfy-proxy: Nothing answers at http://127.0.0.1:1: .*\n", said.err)


async def test_somebody_else_at_the_address_is_told(command: CommandLine) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", page)
    async with TestServer(app) as other:
        said = await command("run", "x", "a.png", "-o", "x.png", "--url", other.make_url("/"))
    assert (said.code, "something else" in said.err) == (1, True)


async def test_the_key_comes_from_the_environment_or_a_file(
    workers: Any, start_proxy: Callable[..., Any], tmp_path: Path
) -> None:
    """A wrong or missing one is told with the way to give it."""
    front = await start_proxy(*workers, api_keys=(SECRET,))
    command = command_line(tmp_path, front.make_url("/"))
    photos(tmp_path, "a.png")
    (tmp_path / "key").write_text(f"# ours\n{SECRET}\n")
    words = ("run", "upscale-image", "a.png", "-o", "x.png")
    assert (await command(*words, COMFY_PROXY_API_KEY=SECRET)).code == 0
    assert (await command(*words, "--api-key-file", "key")).code == 0
    said = await command(*words)
    assert (said.code, "wants a key" in said.err, "--api-key-file" in said.err) == (1, True, True)
    said = await command(*words, COMFY_PROXY_API_KEY="another key")
    assert (said.code, "does not take this key" in said.err) == (1, True)
    said = await command(*words, "--api-key-file", "none")
    assert (said.code, "cannot be read" in said.err) == (2, True)


async def test_a_terminal_is_shown_bars(command: CommandLine) -> None:
    """With each file that runs, and the failures as lines; a pipe gets no escape of that."""
    photos(command.folder / "in", "a.png", "b.png")
    (command.folder / "in" / "broken.png").write_bytes(noise(20, 10)[:-30])
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "run", "timed", "in", "-o", "out/"),
        *("-p", "seconds=0.4"),
        cwd=command.folder,
        env=command.environ | {"TERM": "xterm-256color", "COLUMNS": "120"},
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)

    def read() -> str:
        pieces = []
        try:
            while piece := os.read(master, 65536):
                pieces.append(piece)
        except OSError:  # the other end is closed
            pass
        return b"".join(pieces).decode()

    async with asyncio.timeout(PATIENCE_S):
        shown = await asyncio.to_thread(read)
        assert await process.wait() == 1
    os.close(master)
    assert "\x1b[" in shown
    assert "in/a.png" in shown
    assert "3/3" in shown
    assert "in/broken.png: failed" in shown
    plain = await command("run", "timed", "in", "-o", "out/", "-p", "seconds=0")
    assert "\x1b" not in plain.out + plain.err


async def test_whoever_reads_no_further_ends_it(command: CommandLine, jobs: JobClient) -> None:
    """As ``head`` does: without a stack trace, and with what is not done cancelled."""
    photos(command.folder / "in", *(f"{n}.png" for n in range(8)))
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", "run", "timed", "in", "-o", "out/"),
        *("-p", "seconds=0.2"),
        cwd=command.folder,
        env=command.environ,
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    os.close(reading)
    async with asyncio.timeout(PATIENCE_S):
        _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")
    assert [one for one in jobs.service.manager if not one.finished] == []


async def test_a_folder_that_cannot_be_used_is_told(command: CommandLine) -> None:
    photos(command.folder, "a.png")
    (command.folder / "out" / ".comfy-proxy.jsonl").mkdir(parents=True)
    (command.folder / "file").touch()
    for output in ("out/", "file/"):
        said = await command("run", "upscale-image", "a.png", "-o", output)
        assert said.code in (1, 2)
        assert len(said.err.splitlines()) == 1
        assert output[:-1] in said.err


async def test_a_full_queue_is_waited_for(
    workers: Any, start_proxy: Callable[..., Any], tmp_path: Path
) -> None:
    """By the proxy's word: every file gets its turn."""
    (tmp_path / "templates").mkdir()
    front = await start_proxy(
        *workers,
        max_pending_jobs=1,
        max_concurrent_jobs=6,
        workflow_directory=write_templates(tmp_path / "templates"),
    )
    answered: list[int] = []
    front.app[REQUEST_OBSERVERS].append(lambda record: answered.append(record.status))
    mine, other = JobClient(front), command_line(tmp_path, front.make_url("/"))
    for _ in range(6):
        await mine.reaches(await mine.submit(seconds=2), "processing")
    await mine.submit(seconds=0)
    photos(tmp_path / "in", "a.png", "b.png", "c.png")
    said = await other("run", "timed", "in", "-o", "out/", "-p", "seconds=0")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[-1] == "3 done, of 3"
    assert 503 in answered


async def test_the_book_names_files_of_its_folder_only(command: CommandLine) -> None:
    """A line that somebody wrote into it does not lead elsewhere."""
    photos(command.folder / "in", "a.png", "b.png")
    await command("run", "upscale-image", "in", "-o", "out/")
    book = command.folder / "out" / ".comfy-proxy.jsonl"
    lines = [json.loads(line) for line in book.read_text().splitlines()]
    for line in lines:
        line["files"] = [["../in/a.png", (command.folder / "in" / "a.png").stat().st_size]]
    book.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = await command("run", "upscale-image", "in", "-o", "out/")
    assert said.out.splitlines()[-1] == "2 done, of 2"


async def test_a_folder_that_cannot_be_written_to_is_found_before_anything_runs(
    command: CommandLine, front: Any
) -> None:
    """Results that cannot be kept are a GPU's time for nothing."""
    photos(command.folder / "in", "a.png")
    seen: list[Any] = []
    front.app[REQUEST_OBSERVERS].append(seen.append)
    for target in ("/proc/", "/proc/a.png"):
        said = await command("run", "upscale-image", "in", "-o", target)
        assert said.code == 2
        assert said.err.startswith("comfy-proxy: /proc cannot be written to: ")
    assert {one.method for one in seen} == {"GET"}


async def test_a_name_with_control_characters_stays_on_its_line(command: CommandLine) -> None:
    """It cannot look like another file's line, or take a terminal over; the file keeps its name,
    also one that is no UTF-8."""
    photos(command.folder / "in", "a\nb\x1b[2J.png", "-c.png", "d\udcff.png")
    said = await command("run", "upscale-image", "in", "-o", "out/")
    assert said.code == 0
    assert len(said.out.splitlines()) == 4
    assert "\x1b" not in said.out
    out = command.folder / "out"
    assert {one for one in os.listdir(out) if one[0] != "."} == {
        "a\nb\x1b[2J.png",
        "-c.png",
        "d\udcff.png",
    }
