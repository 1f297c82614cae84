"""Files that a request names by a URL: fetched from the hosts of INPUT_ALLOWED_HOSTS alone."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

import aiohttp
from yarl import URL

from comfy_proxy.allowed_hosts import AllowedHost, read_allowed_url
from comfy_proxy.clock import Clock
from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.requests.bodies import too_large
from comfy_proxy.jobs.requests.input_file import InputFile

FETCH_TIMEOUT_S: Final = 60.0
"""Seconds that a file may take in all. Beyond, the request is refused with 400: its client waits
for the answer meanwhile."""
MAX_URL_LENGTH: Final = 4096
"""Characters of a URL; a longer one is refused with 400."""


URL_START: Final = 16
"""Characters in which a URL shows that it is one; one with a longer scheme is taken for a file."""
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """True if ``text`` is meant as a URL, fetched or not; base64 has no colon, and a data URL no
    slashes behind it."""
    return _SCHEME.match(text[:URL_START]) is not None


class InputUrls:
    """Fetches files; one for each application, closed with :meth:`close`.

    No redirect is followed, because it could lead anywhere in the operator's network, and no proxy
    settings of the environment are used.
    """

    def __init__(self, allowed: Collection[AllowedHost], clock: Clock) -> None:
        self._allowed = allowed
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, text: str, into: InputFile, *, field: str, limit: int) -> None:
        """Write the file at the URL ``text`` into ``into``, ``limit`` bytes at most.

        Raises InvalidFieldError naming ``field``: ``url_not_allowed`` or ``url_failed``, and
        PayloadTooLargeError.
        """
        url = self._checked(text, field)
        try:
            async with self._clock.timeout(FETCH_TIMEOUT_S):
                await self._read(url, into, field, limit)
        except TimeoutError:
            raise _failed(field, f"did not come within {FETCH_TIMEOUT_S:g} seconds") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(field, f"cannot be fetched: {type(error).__name__}") from error

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    def _checked(self, text: str, field: str) -> URL:
        scheme = text.partition(":")[0].lower()
        if scheme not in ("http", "https"):
            message = f"{field} is a URL of {scheme}; only http and https URLs are fetched."
            raise InvalidFieldError(field, message, code="url_not_allowed")
        if not self._allowed:
            message = f"{field} is a URL, and files are not fetched here: INPUT_ALLOWED_HOSTS."
            raise InvalidFieldError(field, message, code="url_not_allowed")
        try:
            if len(text) > MAX_URL_LENGTH:
                raise ValueError(f"is longer than {MAX_URL_LENGTH} characters")
            return read_allowed_url(text, self._allowed)
        except ValueError as error:
            message = f"The URL in {field} {error}."
            raise InvalidFieldError(field, message, code="url_not_allowed") from None

    async def _read(self, url: URL, into: InputFile, field: str, limit: int) -> None:
        async with self._opened().get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise _failed(field, f"was answered with {response.status}, not with a file")
            if (response.content_length or 0) > limit:
                raise too_large(limit)
            into.client_name = url.name
            async for piece in response.content.iter_any():
                if into.size + len(piece) > limit:
                    raise too_large(limit)
                await into.write(piece)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(),  # the clock's, in `fetch`
                trust_env=False,
            )
        return self._session


def _failed(field: str, reason: str) -> InvalidFieldError:
    return InvalidFieldError(field, f"The file at the URL in {field} {reason}.", code="url_failed")
