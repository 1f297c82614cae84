"""What a prompt pays for the failures of its instances."""

from __future__ import annotations

import pytest

from comfy_proxy.cluster.output_file import ResultFileLostError
from comfy_proxy.cluster.retry_law import MAX_BREAKS, MAX_REFUSALS, PromptVanishedError, Tries
from comfy_proxy.errors import (
    InstanceError,
    InstanceRefusedError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    InvalidAnswerError,
    ProcessEndedError,
    PromptLostError,
    ResultFrameLostError,
)

LOSSES = [InstanceUnreachableError("away"), PromptLostError("gone"), InstanceTimeoutError("hung")]


@pytest.mark.parametrize("error", LOSSES, ids=lambda error: type(error).__name__)
def test_what_ran_is_tried_once_more(error: InstanceError) -> None:
    """The first loss may be somebody else's fault, the second is its own."""
    tries = Tries()
    tries.failed(error, ran=True, answers=False)
    with pytest.raises(ProcessEndedError, match=r"2 times while it ran this .*node 7"):
        tries.failed(error, ran=True, answers=False, node="7")


@pytest.mark.parametrize("error", LOSSES, ids=lambda error: type(error).__name__)
def test_what_waited_pays_nothing(error: InstanceError) -> None:
    """However many instances die under it."""
    tries = Tries()
    for _ in range(1000):
        tries.failed(error, ran=False, answers=False)
    assert tries.failures == 0


@pytest.mark.parametrize(
    ("error", "ran", "limit"),
    [
        (InstanceUnreachableError("reset"), False, MAX_BREAKS),
        (ResultFrameLostError("frame"), True, MAX_BREAKS),
        (InstanceRefusedError("500"), False, MAX_REFUSALS),
        (InvalidAnswerError("html"), True, MAX_REFUSALS),
        (ResultFileLostError("file"), True, MAX_REFUSALS),
        (ResultFileLostError("file"), False, MAX_REFUSALS),
    ],
)
def test_an_instance_that_answers_is_not_tried_for_ever(
    error: InstanceError, ran: bool, limit: int
) -> None:
    """In the end the prompt has the instance's own error."""
    tries = Tries()
    for _ in range(limit - 1):
        tries.failed(error, ran=ran, answers=True)
    with pytest.raises(type(error)) as raised:
        tries.failed(error, ran=ran, answers=True)
    assert raised.value is error


def test_what_an_instance_lost_without_any_trouble_is_tried_once_more() -> None:
    """It may have ended the thread that runs prompts; a process that ended under it counts too."""
    tries = Tries()
    tries.failed(PromptVanishedError("gpu1:8188"), ran=False, answers=True)
    with pytest.raises(PromptVanishedError, match="gpu2:8188 has lost the prompt"):
        tries.failed(PromptVanishedError("gpu2:8188"), ran=False, answers=True)
    tries = Tries()
    assert tries.lost_running() is None
    with pytest.raises(PromptVanishedError):
        tries.failed(PromptVanishedError("gpu1:8188"), ran=False, answers=True)
