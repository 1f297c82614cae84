"""``COMFYUI_HOST_1``, ``COMFYUI_NAME_1``, …: who the instances are, and what they are called.

The variables are numbered, not the instances: of ``COMFYUI_HOST_2`` and ``COMFYUI_HOST_5`` alone
the first one is instance 1.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from yarl import URL

DEFAULT_INSTANCES: Final = ("localhost:8188", "localhost:8189")
MAX_NAME: Final = 64
"""Characters of an instance's name at most."""

_PREFIXES = ("COMFYUI_HOST_", "COMFYUI_NAME_")
_NUMBERED = re.compile(r"COMFYUI_(?:HOST|NAME)_([1-9][0-9]{0,3})")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")
"""A host name as name servers take it, or an address with its zone."""
_NUMERIC = re.compile(r"(?:0[xX][0-9A-Fa-f]+|[0-9]+)(?:\.(?:0[xX][0-9A-Fa-f]+|[0-9]+)){0,3}")
"""IPv4 as the C library reads it: ``127.1`` and ``0x7f.1`` are ``127.0.0.1``."""


def is_numbered(name: str) -> bool:
    """Whether a variable is one of an instance, or wants to be: its number may be none."""
    return name.startswith(_PREFIXES)


def parse_instance(text: str) -> URL:
    """``host:port`` or an http(s) URL with an optional path prefix → URL without trailing slash.

    Raises ValueError with the reason.
    """
    text = text.strip()
    try:
        url = URL(text if "://" in text else f"http://{text}")
    except UnicodeError:
        raise ValueError(f"{text[:100]!r}: that is no host name") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{text!r}: the scheme must be http or https")
    if url.raw_user is not None or url.raw_password is not None:
        raise ValueError("a user name or password in the address is not supported")
    if not url.host:
        raise ValueError(f"{text!r}: there is no host in it")
    if not _can_be_looked_up(url.raw_host or ""):
        raise ValueError(f"{text[:100]!r}: that is no host name")
    if url.query_string or url.fragment:
        raise ValueError(f"{text!r}: a query or fragment makes no sense here")
    if url.port == 0:
        raise ValueError(f"{text!r}: nobody listens on port 0")
    return url.with_path(url.raw_path.rstrip("/"), encoded=True)


def canonical(url: URL) -> URL:
    """The same for all spellings of one instance's address."""
    plain, host = url.with_port(url.port), _canonical_host(url.host or "")
    if host in _LOOPBACK_NAMES:  # all of them are this machine: one instance, not three
        host = "localhost"
    return plain.with_host(host)


def _canonical_host(host: str) -> str:
    """Without the dot of a full name; an address in its usual form."""
    host = host.rstrip(".")
    if _NUMERIC.fullmatch(host):
        with suppress(OSError):
            return socket.inet_ntoa(socket.inet_aton(host))
    with suppress(ValueError):
        address = ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return str(mapped or address)
    return host


def _can_be_looked_up(host: str) -> bool:
    """False for what a name server is never asked: Python itself refuses to, by a UnicodeError
    that is no error of the network."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return bool(host.strip(".")) and _HOST.fullmatch(host) is not None


def name_problem(name: str) -> str | None:
    """What is wrong with an instance's name; None if nothing is."""
    if len(name) > MAX_NAME or not name.isprintable():
        return f"a name has {MAX_NAME} printable characters at most"
    if name.isdecimal():
        return "a number is no name: instances have those as ids"
    return None


def read_instances(merged: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """The fields of Settings that the variables give; what is wrong is added to ``problems``."""
    numbers = _numbers(merged, problems)
    hosts = {n: merged[f"COMFYUI_HOST_{n}"] for n in numbers if f"COMFYUI_HOST_{n}" in merged}
    names = {n: merged[f"COMFYUI_NAME_{n}"] for n in numbers if f"COMFYUI_NAME_{n}" in merged}
    fields: dict[str, Any] = {}
    if hosts and (instances := _addresses(hosts, problems)):
        fields["instances"] = instances
    known = sorted(hosts) or range(1, len(DEFAULT_INSTANCES) + 1)
    if names:
        fields["instance_names"] = tuple(names.get(n, "").strip() for n in known)
    unknown = sorted(names.keys() - set(known))
    problems += [f"COMFYUI_NAME_{n}: there is no COMFYUI_HOST_{n}" for n in unknown]
    _check_names(names, problems)
    return fields


def _numbers(merged: Mapping[str, str], problems: list[str]) -> list[int]:
    """The numbers of all variables of instances, in order."""
    numbers: set[int] = set()
    for name in filter(is_numbered, merged):
        if match := _NUMBERED.fullmatch(name):
            numbers.add(int(match[1]))
        else:
            problems.append(f"{name}: instances are numbered, like {name[: len(_PREFIXES[0])]}1")
    return sorted(numbers)


def _addresses(hosts: Mapping[int, str], problems: list[str]) -> tuple[URL, ...]:
    urls: list[URL] = []
    seen: dict[URL, str] = {}
    for number, text in hosts.items():
        name = f"COMFYUI_HOST_{number}"
        try:
            url = parse_instance(text)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        urls.append(url)
        known = canonical(url)
        if known in seen:
            problems.append(f"{name}: {url} is the same instance as {seen[known]}")
        seen.setdefault(known, name)
    return tuple(urls)


def _check_names(names: Mapping[int, str], problems: list[str]) -> None:
    """A name finds one instance: it is no other one's, and no number, which would be an id."""
    seen: dict[str, int] = {}
    for number, text in names.items():
        name, variable = text.strip(), f"COMFYUI_NAME_{number}"
        if (problem := name_problem(name)) is not None:
            problems.append(f"{variable}: {problem}")
        elif name in seen:
            problems.append(f"{variable}: {name} is the name of COMFYUI_HOST_{seen[name]} already")
        seen.setdefault(name, number)
