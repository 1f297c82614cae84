"""An instance that is this proxy itself, by whatever name it was configured.

Whatever is sent there comes back and is sent there again, until connections run out. Each check of
an instance carries a mark of this proxy, so one that comes back is known, is answered 508, and the
instance never gets anything else. ComfyUI ignores the header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from comfy_proxy.errors import InvalidAnswerError, RequestError

HEADER: Final = "X-Comfy-Proxy-Check"
_LOOP_DETECTED: Final = 508


class ItselfError(InvalidAnswerError):
    """The instance is this proxy: one such answer opens its circuit, no other closes it."""


class LoopError(RequestError):
    """Our own check came back to us."""

    status = _LOOP_DETECTED
    code = "loop_detected"


def refuse_own(headers: Mapping[str, str], mark: str) -> None:
    """Raises LoopError for a request of the proxy that has this ``mark``, made to itself."""
    if headers.get(HEADER) == mark:
        raise LoopError("This is the proxy itself, which is no ComfyUI instance.")


def require_other(status: int, host: str) -> None:
    """Raises ItselfError if the answer to a check of ``host`` has the ``status`` of ours."""
    if status == _LOOP_DETECTED:
        raise ItselfError(f"{host} is this proxy itself, not a ComfyUI instance.")
