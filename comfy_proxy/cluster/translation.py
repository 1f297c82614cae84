"""aiohttp's exceptions about an instance become this package's, in this one place."""

from __future__ import annotations

import errno
from types import TracebackType

import aiohttp

from comfy_proxy.errors import (
    ConnectionBrokenError,
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    InvalidAnswerError,
)


class InstanceGoneError(InstanceUnreachableError):
    """An operator has removed the instance: nobody is to blame, and nobody is asked there."""


class translated:  # noqa: N801 - reads as what it does: ``with translated(name)``
    """Around any exchange with an instance, which messages call ``name``.

    Raises InstanceTimeoutError, InstanceUnreachableError (no connection came about),
    ConnectionBrokenError (it ended too early) and InvalidAnswerError (what came is no HTTP). The
    cause stays known: see :func:`nothing_sent` and :func:`nobody_listens`.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and (ours := of_instance(error, self._name)) is not None:
            raise ours from error


def of_instance(error: BaseException, name: str) -> InstanceError | None:
    """What ``error`` says of the instance that messages call ``name``; None if it is none of those
    that :class:`translated` knows."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return InstanceTimeoutError(f"{name} did not accept a connection in time.")
        case TimeoutError():
            return InstanceTimeoutError(f"{name} did not answer in time.")
        case aiohttp.ClientConnectorCertificateError():
            return InstanceUnreachableError(f"{name} has a certificate that is not trusted.")
        case aiohttp.ClientConnectorError() | ConnectionRefusedError():
            return InstanceUnreachableError(f"{name} cannot be reached.")
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            return ConnectionBrokenError(f"The connection to {name} broke off.")
        case aiohttp.ClientError():
            return InvalidAnswerError(f"{name} does not speak HTTP as ComfyUI does.")
    return None


def nothing_sent(error: InstanceError) -> bool:
    """True if no connection came about, for whatever reason: the same may be sent elsewhere."""
    return isinstance(error, InstanceGoneError) or isinstance(
        error.__cause__,
        aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | ConnectionRefusedError,
    )


def nobody_listens(error: InstanceError) -> bool:
    """True if the dial was refused: the process has ended, and its queue with it. So it is for us
    once an instance was removed.

    No other failed dial proves that: not an unknown name, not a missing route, and not that we
    have no file descriptor or port left ourselves. Of several addresses of one host it is enough
    that one has refused and none has answered.
    """
    cause = error.__cause__
    cause = getattr(cause, "os_error", cause)
    # Several addresses are one OSError, whose message is all that names the errors of each.
    refused = f"[Errno {errno.ECONNREFUSED}]"
    refuses = isinstance(cause, ConnectionRefusedError) or refused in str(cause)
    return refuses or isinstance(error, InstanceGoneError)
