"""aiohttp's exceptions become this package's, in this one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from comfy_proxy.errors import (
    ConnectionBrokenError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    InvalidAnswerError,
)


@contextmanager
def translated(host: str) -> Iterator[None]:
    """Around any exchange with the instance at ``host``: raises InstanceError's subclasses."""
    try:
        yield
    except TimeoutError as error:
        raise InstanceTimeoutError(f"{host} did not answer in time.") from error
    except (aiohttp.ClientConnectorError, ConnectionRefusedError) as error:
        raise InstanceUnreachableError(f"{host} cannot be reached.") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
        raise ConnectionBrokenError(f"The connection to {host} broke off.") from error
    except aiohttp.ClientError as error:
        raise InvalidAnswerError(f"{host} does not speak HTTP as ComfyUI does.") from error
