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
)

CLIENTS = Path(__file__).parent / "clients"
RUNS = 6


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
    command: list[str | Path], base_url: str, live_urls: tuple[str, str], directory: Path
) -> list[dict[str, Any]]:
    """What ``command`` prints of each of six jobs; pictures are right, both servers have some."""
    workflow, result = directory / "workflow.json", directory / "result.png"
    workflow.write_text(json.dumps(picture_from("to be set")))
    env = environment(directory) | {"COMFY_BASE_URL": base_url}
    jobs = []
    for _ in range(RUNS):
        picture = original(directory)
        job = json.loads(await run(*command, workflow, picture.file, result, env=env))
        assert job["status"] == "succeeded"
        assert np.array_equal(downloaded(result), enlarged(picture.pixels))
        jobs.append(job)
    histories = [await history(url) for url in live_urls]
    assert all(sum(job["id"] in ran for ran in histories) == 1 for job in jobs)
    assert all(any(job["id"] in ran for job in jobs) for ran in histories)
    return jobs
