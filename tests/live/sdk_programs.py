"""Jobs by Comfy's SDKs, as their documentation has it, and what must come of them."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from client_programs import (
    Pixels,
    downloaded,
    encoded,
    enlarged,
    environment,
    history,
    noise,
    picture_from,
    run,
    use_only,
)

CLIENTS = Path(__file__).parent / "clients"
RUNS = 6


def turns() -> list[int]:
    """The number of the server that each run is for."""
    return [1 + at % 2 for at in range(RUNS)]


@dataclass(frozen=True, kw_only=True)
class Original:
    """A picture to upload, like no other: its file and its pixels."""

    file: Path
    pixels: Pixels


def original(directory: Path) -> Original:
    seed = secrets.randbelow(1 << 32)
    file, pixels = directory / f"a picture {seed}.png", noise(seed)
    file.write_bytes(encoded(pixels))
    return Original(file=file, pixels=pixels)


async def run_sdk_jobs(
    command: list[str | Path],
    base_url: str,
    live_urls: tuple[str, str],
    directory: Path,
    proxy_url: str | None = None,
) -> list[dict[str, Any]]:
    """What ``command`` prints of each of six jobs, by turns on both servers; pictures are right.

    ``proxy_url`` is where the proxy is if that is not the SDK's ``base_url``.
    """
    workflow, result = directory / "workflow.json", directory / "result.png"
    workflow.write_text(json.dumps(picture_from("to be set")))
    env = environment(directory) | {"COMFY_BASE_URL": base_url}
    jobs = []
    for number in turns():
        await use_only(proxy_url or base_url, number)
        picture = original(directory)
        job = json.loads(await run(*command, workflow, picture.file, result, env=env))
        assert job["status"] == "succeeded"
        assert np.array_equal(downloaded(result), enlarged(picture.pixels))
        jobs.append(job)
    histories = [await history(url) for url in live_urls]
    ran_at = [[at for at, ran in enumerate(histories, 1) if job["id"] in ran] for job in jobs]
    assert ran_at == [[number] for number in turns()]
    return jobs
