"""What both clients' HTTP has in common: address, key, requests as httpx takes them, its errors."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, TypeVar

import httpx
from httpx_sse import SSEError

from comfy_proxy.client.effects import Answer, Call
from comfy_proxy.client.errors import ClientError, InvalidValueError, UnreachableError
from comfy_proxy.client.policy import Policy

CONNECT_TIMEOUT_S: Final = 10.0
"""Seconds in which a connection must be there; beyond, the proxy counts as unreachable."""
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL says of an answer in plain HTTP."""
MAX_PORT: Final = 65_535


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the proxy is. ``url`` may have a path; ``verify`` True trusts whom the system trusts,
    and SSL_CERT_FILE."""

    url: httpx.URL
    api_key: str | None = field(repr=False)
    policy: Policy
    verify: ssl.SSLContext | bool = True

    @property
    def shown(self) -> str:
        """``url`` as it is told to people: without a user's name and password in it."""
        return str(self.url.copy_with(userinfo=b"")).rstrip("/")

    def options(self) -> dict[str, Any]:
        """For the constructor of an httpx client. On this machine no HTTP_PROXY is asked."""
        headers = {"X-API-Key": self.api_key} if self.api_key else {}
        here = _is_loopback(self.url.host)
        verify = self.verify
        if verify is True and self.url.scheme == "https":
            verify = ssl.create_default_context()  # who the system trusts; httpx has its own list
        return {"headers": headers, "verify": verify, "trust_env": not here}

    def request(self, http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
        """``call`` as httpx sends it. Raises InvalidValueError for what it cannot carry."""
        try:
            return http.build_request(**self._request(call))
        except (ValueError, TypeError, httpx.InvalidURL) as error:
            raise InvalidValueError(f"This cannot be sent: {error}.") from None

    def _request(self, call: Call) -> dict[str, Any]:
        answer_s = self.policy.answer_timeout_s
        options: dict[str, Any] = {
            "method": call.method,
            "url": self.url.copy_with(raw_path=self.url.raw_path + call.path.encode()),
            "headers": dict(call.headers),
            "timeout": httpx.Timeout(
                answer_s, connect=min(CONNECT_TIMEOUT_S, answer_s), read=answer_s + call.wait_s
            ),
        }
        if call.query:
            options["params"] = dict(call.query)
        if call.files:
            options["data"] = dict(call.form)
            options["files"] = {
                name: (upload.name, upload.stream, upload.media_type)
                for name, upload in call.files.items()
            }
        elif call.json is not None:
            options["json"] = call.json
        return options


def target(
    base_url: str, api_key: str | None, policy: Policy, verify: ssl.SSLContext | bool
) -> Target:
    """Raises InvalidValueError if ``base_url`` is no address, or the key none that a header can
    carry."""
    text = base_url if "://" in base_url else f"http://{base_url}"
    try:
        url = httpx.URL(text.rstrip("/") + "/")
    except httpx.InvalidURL as error:
        message = f"{base_url!r} is no address: {error}."
        raise InvalidValueError(message, code="invalid_url") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise InvalidValueError(f"{base_url!r} is no http(s) address.", code="invalid_url")
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise InvalidValueError(f"{base_url!r}: {url.port} is no port.", code="invalid_url")
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        message = "The API key has characters that no key has."
        raise InvalidValueError(message, code="invalid_key")
    return Target(url=url, api_key=key or None, policy=policy, verify=verify)


Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


def http_client(kind: type[Http], target: Target) -> Http:
    """Raises ClientError if the environment names a proxy server that httpx cannot use."""
    try:
        return kind(**target.options())
    except (ImportError, ValueError) as error:
        message = f"The environment's HTTP proxy cannot be used: {error}"
        raise ClientError(message, code="invalid_url") from None


def head_of(response: httpx.Response, body: bytes = b"") -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status=response.status_code, headers=headers, body=body)


@contextmanager
def translated(target: Target, http: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
    """What httpx raises, as our errors: the one place that knows them."""
    where = target.shown
    try:
        if http.is_closed:
            raise _closed()
        yield
    except RuntimeError as error:
        if not http.is_closed:
            raise
        raise _closed() from error
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
        raise InvalidValueError(f"This cannot be sent{_why(error)}.") from error
    except httpx.ConnectError as error:
        raise _tls_error(where, error) or UnreachableError(
            f"Nothing answers at {where}{_why(error)}."
        ) from error
    except httpx.TimeoutException as error:
        raise UnreachableError(f"{where} did not answer in time.") from error
    except httpx.TransportError as error:
        raise UnreachableError(f"The connection to {where} broke{_why(error)}.") from error
    except (httpx.HTTPError, SSEError) as error:
        message = f"What {where} sends cannot be read{_why(error)}."
        raise ClientError(message, code="not_the_proxy") from error


def _tls_error(where: str, error: BaseException) -> ClientError | None:
    """If it is TLS that has failed: trying again would not help."""
    arisen: BaseException | None = error
    while arisen is not None and not isinstance(arisen, ssl.SSLError):
        arisen = arisen.__cause__ or arisen.__context__
    if arisen is None:
        return None
    if isinstance(arisen, ssl.SSLCertVerificationError):
        message = f"The certificate of {where} is not trusted: {arisen.verify_message}."
    elif arisen.reason in _NO_TLS:
        message = f"{where} does not speak TLS: is its address http://…?"
    else:
        message = f"There is no TLS connection to {where}: {arisen.reason or arisen}."
    return ClientError(message, code="tls_failed")


def _closed() -> ClientError:
    return ClientError("The client is closed.", code="closed")


def _why(error: Exception) -> str:
    return f": {error}" if str(error) else ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
