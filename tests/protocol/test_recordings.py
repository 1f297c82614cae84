"""The embedded worker answers as a real ComfyUI 0.3.75 did when it was recorded."""

import json

import pytest
from normalise import Normaliser, recorded
from scenarios import MEASURED, RECORDED, RECORDINGS, played, read_measured

from comfy_proxy.embedded.worker import EmbeddedWorker


@pytest.mark.long
@pytest.mark.parametrize("name", RECORDED)
async def test_the_recorded_conversation(name: str, worker: EmbeddedWorker) -> None:
    """The worker's half of a recorded conversation is the recording, names and times aside."""
    _, options = RECORDED[name]
    expected = Normaliser().transcript(recorded(RECORDINGS / f"{name}.jsonl"), **options)
    transcript = await played(name, worker.url)
    if name == "rejected-and-reads":  # the recorded server had no upscale model
        _forget_models(transcript)
    assert _as_read(transcript) == expected


def _forget_models(transcript: dict) -> None:
    for exchange in transcript["http"]:
        if exchange["request"] == "GET /models/upscale_models":
            exchange["body"] = []


@pytest.mark.long
@pytest.mark.parametrize("name", MEASURED)
async def test_the_measured_conversation(name: str, worker: EmbeddedWorker) -> None:
    """In every scenario the worker says what the real server said when it was asked."""
    assert _as_read(await played(name, worker.url)) == read_measured(name)


def _as_read(transcript: dict) -> dict:
    """The transcript after a trip through JSON, as the recordings have made it."""
    return json.loads(json.dumps(transcript))
