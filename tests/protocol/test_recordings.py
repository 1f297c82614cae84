"""The embedded worker answers as a real ComfyUI 0.3.75 did when it was recorded."""

from pathlib import Path

import pytest
from conversation import Conversation
from normalise import Normaliser, recorded
from scenarios_recorded import RECORDED

from comfy_proxy.embedded.worker import EmbeddedWorker

RECORDINGS = Path(__file__).parent / "recordings"
OPTIONS = {
    "interrupt-running": {"first_progress_only": True},
    "delete-pending": {"first_progress_only": True, "apart": ("status",)},
}


@pytest.mark.parametrize("name", RECORDED)
async def test_the_recorded_conversation(name: str, worker: EmbeddedWorker) -> None:
    """The worker's half of a recorded conversation is the recording, names and times aside."""
    async with Conversation(worker.url) as conversation:
        await RECORDED[name](conversation)
        played = conversation.transcript()
    options = OPTIONS.get(name, {})
    expected = Normaliser().transcript(recorded(RECORDINGS / f"{name}.jsonl"), **options)
    assert Normaliser(conversation.salt).transcript(played, **options) == expected
