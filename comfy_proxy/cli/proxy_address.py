"""Where the proxy is that a command speaks to, and with which key."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from comfy_proxy.cli.command import EXIT_USAGE, CommandError, Values, option
from comfy_proxy.errors import SettingsError

if TYPE_CHECKING:
    from comfy_proxy.settings import Settings

URL_VARIABLE: Final = "COMFY_PROXY_URL"
KEY_VARIABLE: Final = "COMFY_PROXY_API_KEY"
_EVERYWHERE = ("", "0.0.0.0", "::")

OPTIONS: Final = (
    option(
        "url",
        f"the proxy's address; else {URL_VARIABLE}, else HOST and PORT of the settings",
        metavar="URL",
    ),
    option(
        "api_key_file",
        f"a file with the key; else {KEY_VARIABLE}, else the first one of the settings",
        type=Path,
        metavar="FILE",
    ),
    option("config", "the TOML file of the proxy that runs", type=Path, metavar="FILE"),
)
"""The options of each command that speaks to a proxy. A key is no option: everybody on the machine
can read command lines."""


@dataclass(frozen=True, kw_only=True)
class ProxyAddress:
    """``verify``: whose certificate is trusted, True for what the system trusts."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    verify: ssl.SSLContext | bool = True


def find_proxy(values: Values) -> ProxyAddress:
    """By the values of OPTIONS and the environment; the settings are read only for what neither
    has. Raises CommandError, and SettingsError if the settings cannot be used; but where only a key
    is looked for, those that nobody has named may be wrong."""
    given = values.url or os.environ.get(URL_VARIABLE, "").strip() or None
    url = None if given is None else _checked(given)
    key = _given_key(values.api_key_file)
    if url is not None and key is not None:
        return ProxyAddress(url=url, api_key=key)
    from comfy_proxy.settings import load_settings

    try:
        settings = load_settings(config_file=values.config)
    except SettingsError:
        if url is None or values.config is not None:
            raise
        return ProxyAddress(url=url)
    key = key or next(iter(settings.api_keys), None)
    if url is not None:
        return ProxyAddress(url=url, api_key=key)
    return ProxyAddress(url=own_url(settings), api_key=key, verify=_own_certificate(settings))


def key_wanted(proxy: ProxyAddress) -> str:
    """For whoever got a 401: how to give a key."""
    what = "does not take this key" if proxy.api_key else "wants a key"
    return f"{proxy.url} {what}: put it into {KEY_VARIABLE}, or name its --api-key-file."


def own_url(settings: Settings) -> str:
    """Where the proxy of these settings is reached from this machine."""
    first = settings.hosts[0] if settings.hosts else ""
    host = "127.0.0.1" if first in _EVERYWHERE else first
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{settings.port}"


def _checked(text: str) -> str:
    """An address with its scheme. Raises CommandError."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        message = f"{text!r} is no address of a proxy: {error}."
        raise CommandError(message, code=EXIT_USAGE) from None
    if not known or parts.query or parts.fragment:
        message = f"{text!r} is no address of a proxy: it is to be http(s)://host:port."
        raise CommandError(message, code=EXIT_USAGE)
    return url


def _given_key(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(KEY_VARIABLE, "").strip() or None
    from comfy_proxy.key_settings import read_keys

    try:
        return read_keys(file)[0]
    except ValueError as error:
        raise CommandError(f"--api-key-file: {error}", code=EXIT_USAGE) from None


def _own_certificate(settings: Settings) -> ssl.SSLContext | bool:
    """Of the proxy on this machine its own certificate, which names another host."""
    if settings.tls_cert is None:
        return True
    from comfy_proxy.tls import client_context

    context = client_context(settings.tls_cert)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
