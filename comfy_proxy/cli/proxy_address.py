"""Where the proxy is that a command speaks to, and with which key."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from comfy_proxy.cli.command import EXIT_USAGE, CommandError, Values, option

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
    has. Raises CommandError, and SettingsError if the settings cannot be used."""
    url = values.url or os.environ.get(URL_VARIABLE, "").strip() or None
    if url is not None and "://" not in url:
        url = f"http://{url}"
    key = _given_key(values.api_key_file)
    if url is not None and key is not None:
        return ProxyAddress(url=url, api_key=key)
    from comfy_proxy.settings import load_settings

    settings = load_settings(config_file=values.config)
    key = key or next(iter(settings.api_keys), None)
    if url is not None:
        return ProxyAddress(url=url, api_key=key)
    return ProxyAddress(url=own_url(settings), api_key=key, verify=_own_certificate(settings))


def own_url(settings: Settings) -> str:
    """Where the proxy of these settings is reached from this machine."""
    first = settings.hosts[0] if settings.hosts else ""
    host = "127.0.0.1" if first in _EVERYWHERE else first
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{settings.port}"


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
