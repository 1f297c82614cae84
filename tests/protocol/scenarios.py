"""All scenarios, how to play one, and where the answers of the real server are kept."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from conversation import Conversation
from normalise import Normaliser
from scenarios_files import FILES
from scenarios_queue import QUEUE
from scenarios_recorded import RECORDED
from scenarios_rules import RULES

Play = Callable[[Conversation], Awaitable[None]]
# Played on a real ComfyUI 0.3.75 by `COMFY_LIVE_RECORD=1 scripts/live-comfyui`.
MEASURED: dict[str, tuple[Play, dict[str, Any]]] = QUEUE | FILES | RULES
SCENARIOS: dict[str, tuple[Play, dict[str, Any]]] = RECORDED | MEASURED
RECORDINGS = Path(__file__).parent / "recordings"
MODEL = "4x-tiny-esrgan.pth"  # the one that scripts/live-comfyui makes


async def played(name: str, url: str) -> dict[str, Any]:
    """Play a scenario on a server; the normalised transcript."""
    play, options = SCENARIOS[name]
    async with Conversation(url) as conversation:
        await play(conversation)
        return Normaliser(conversation.salt).transcript(conversation.transcript(), **options)


def write_measured(name: str, transcript: dict[str, Any]) -> None:
    """Keep a transcript of the real server, one exchange or frame a line."""
    lines = [
        json.dumps({"where": where, "record": record})
        for where, records in transcript.items()
        for record in records or [None]
    ]
    (RECORDINGS / f"{name}.json").write_text("\n".join(lines) + "\n")


def read_measured(name: str) -> dict[str, Any]:
    """What `write_measured` wrote."""
    transcript: dict[str, Any] = {}
    for line in (RECORDINGS / f"{name}.json").read_text().splitlines():
        entry = json.loads(line)
        records = transcript.setdefault(entry["where"], [])
        if entry["record"] is not None:
            records.append(entry["record"])
    return transcript
