"""What may be tried again when an instance fails under a prompt: one rule for jobs and clients.

* A prompt that RAN when the process of its instance ended may be what ended it (out of memory, a
  driver fault). It is tried once more, elsewhere if there is a choice: one that is not to blame
  must survive the death of its instance. After the second such loss it ends with
  ``ProcessEndedError`` and is never tried again: it would end one instance after the other.
* A prompt that only waited is not to blame: the death of its instance costs it no try.
* An instance that an operator removes under it costs it no try either.
* A prompt that its instance does not have any more, though it was in no trouble, may have ended the
  thread there that runs prompts (PROTOCOL.md trap 27): that counts like a process that ended.
* Instances that answer checks, but break off the exchanges about this one prompt, are tried
  ``MAX_BREAKS`` times in all; those that answer with an error where none belongs, or do
  not give a file of which they have told, ``MAX_REFUSALS`` times in all.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.output_file import ResultFileLostError
from comfy_proxy.cluster.translation import InstanceGoneError
from comfy_proxy.errors import (
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    ProcessEndedError,
    PromptLostError,
    ResultFrameLostError,
)

MAX_LOSSES = 2
"""How often a prompt may be running when the process of its instance ends; at the last of them it
fails with ``process_ended``. Twice, because the first time may be chance."""
MAX_HANGS = 2
"""How often an instance may hang while it runs a prompt; at the last of them the prompt fails. It
goes elsewhere once: what makes an instance hang would make the next one hang as well."""
MAX_BREAKS = 10
"""How often exchanges about a prompt may break with instances that answer a check right after; at
the last of them the prompt fails with that error.

Ten, because resets come in bursts (a proxy between us and the instance that restarts); not without
end, because a picture that some part of the way refuses breaks every time."""
MAX_REFUSALS = 3
"""How often instances may answer with an error of their own, like 500 for a full disk, or not give
a file of which a node has told; at the last of them the prompt fails with that error. A node that
tells of files that it never wrote would run without end."""

_BROKEN = (InstanceUnreachableError, InstanceTimeoutError, PromptLostError)
"""The process of the instance may have ended, or the way to it broken."""


class PromptVanishedError(PromptLostError):
    """The instance was in no trouble, and has the prompt in neither its queue nor its history."""

    def __init__(self, instance: str) -> None:
        super().__init__(
            f"{instance} has lost the prompt: it is neither in its queue nor in its history. It was"
            " deleted there, or ended the thread of ComfyUI that runs prompts."
        )


@dataclass(kw_only=True, slots=True)
class Tries:
    """How often one prompt was tried in vain, and why; whoever submits it keeps one for it."""

    losses: int = 0
    hangs: int = 0
    breaks: int = 0
    refusals: int = 0

    @property
    def failures(self) -> int:
        """Tries in vain that count against the prompt; waiting at a dying instance does not."""
        return self.losses + self.breaks + self.refusals

    def lost_running(self, node: str | None = None) -> ProcessEndedError | None:
        """The prompt ran (at ``node``, as far as was heard) when the process of ComfyUI ended.

        Returns the error with which the prompt ends, None if it may be tried once more.
        """
        self.losses += 1
        return process_ended(node) if self.losses >= MAX_LOSSES else None

    def hung(self) -> PromptLostError | None:
        """Its instance did not answer for HANG_TIMEOUT while the prompt ran there.

        Returns the error with which it ends, None the first time: then it runs elsewhere.
        """
        self.hangs += 1
        if self.hangs < MAX_HANGS:
            return None
        return PromptLostError(
            f"ComfyUI instances stopped answering {MAX_HANGS} times while they ran this, each time"
            " for longer than HANG_TIMEOUT; it is not tried again."
        )

    def _vanished(self, error: PromptVanishedError) -> None:
        self.losses += 1
        if self.losses >= MAX_LOSSES:
            raise error

    def failed(
        self, error: InstanceError, *, ran: bool, answers: bool, node: str | None = None
    ) -> None:
        """An attempt ended with ``error``; returns if the prompt may be tried again.

        ``ran``: ComfyUI had begun with it, and was at ``node`` when it was last heard of.
        ``answers``: the instance passes a check right after and has not been restarted.
        Raises ProcessEndedError, or ``error`` itself when it has happened too often.
        """
        if isinstance(error, InstanceGoneError):
            return
        if isinstance(error, PromptVanishedError):
            self._vanished(error)
        elif not isinstance(error, _BROKEN) or isinstance(error, ResultFileLostError):
            self.refusals += 1
            if self.refusals >= MAX_REFUSALS:
                raise error
        elif isinstance(error, ResultFrameLostError) or (answers and not ran):
            self.breaks += 1
            if self.breaks >= MAX_BREAKS:
                raise error
        elif ran and isinstance(error, InstanceHangsError):
            if (lost := self.hung()) is not None:
                raise lost from error
        elif ran and (end := self.lost_running(node)) is not None:
            raise end from error


def process_ended(node: str | None) -> ProcessEndedError:
    """The error of a prompt that was lost too often; ``node`` as in :meth:`Tries.lost_running`."""
    where = "" if node is None else f" (the last time at node {node})"
    return ProcessEndedError(
        f"ComfyUI's process ended {MAX_LOSSES} times while it ran this{where}, or its thread that"
        " runs prompts did; it is not tried again. Out of memory and driver faults end a process"
        " like that: ComfyUI's own log says more."
    )
