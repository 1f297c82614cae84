"""aiohttp's exceptions about an instance become this package's, in this one place."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Around any exchange with an instance, which messages call ``name``.

    Raises InstanceTimeoutError, InstanceUnreachableError (no connection came about),
    ConnectionBrokenError (it ended too early) and InvalidAnswerError (what came is no HTTP). The
    cause stays known: see :func:`nothing_sent` and :func:`nobody_listens`.
    """
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise InstanceTimeoutError(f"{name} did not accept a connection in time.") from error
    except TimeoutError as error:
        raise InstanceTimeoutError(f"{name} did not answer in time.") from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise InstanceUnreachableError(f"{name} has a certificate that is not trusted.") from error
    except (aiohttp.ClientConnectorError, ConnectionRefusedError) as error:
        raise InstanceUnreachableError(f"{name} cannot be reached.") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
        raise ConnectionBrokenError(f"The connection to {name} broke off.") from error
    except aiohttp.ClientError as error:
        raise InvalidAnswerError(f"{name} does not speak HTTP as ComfyUI does.") from error


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
