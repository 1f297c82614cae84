"""Certificates: ours for clients (TLS_CERT, TLS_KEY), and whose we trust of instances.

What cannot be used raises ValueError with a reason in words; no key's text is in it.
"""

from __future__ import annotations

import ssl
from pathlib import Path


class _EncryptedError(Exception):
    """OpenSSL asks for a password, which nobody is there to type."""


def server_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    """For listening, with TLS 1.2 at least; ``key`` None: it stands in the file of ``cert``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    load_pair(context, cert, key)
    return context


def load_pair(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Connections from now on get this certificate, those that are open keep theirs."""
    try:
        context.load_cert_chain(cert, key, password=_refuse)
    except _EncryptedError:
        raise ValueError(
            f"{key or cert}: the key is encrypted; give one without a password"
        ) from None
    except ssl.SSLError as error:
        raise ValueError(
            f"{cert}{f' and {key}' if key else ''}: no certificate and key in PEM that belong"
            f" together ({error.reason or 'PEM'})"
        ) from None
    except OSError as error:
        raise ValueError(
            f"{error.filename or key or cert} cannot be read: {error.strerror}"
        ) from None


def client_context(authority: Path) -> ssl.SSLContext:
    """For connections to instances: who signed them is in the file, or known to the system."""
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError:
        raise ValueError(f"{authority} is no certificate in PEM") from None
    except OSError as error:
        raise ValueError(f"{authority} cannot be read: {error.strerror}") from None
    return context


def certificate_authority(text: str) -> Path:
    """The path of a file of certificates that can be used."""
    authority = Path(text.strip()).expanduser()
    client_context(authority)
    return authority


def tls_problems(cert: Path | None, key: Path | None) -> list[str]:
    """What is wrong with TLS_CERT and TLS_KEY."""
    if cert is None:
        return [] if key is None else ["TLS_KEY: it is of no use without TLS_CERT"]
    try:
        server_context(cert, key)
    except ValueError as error:
        return [f"TLS_CERT: {error}"]
    return []


def _refuse() -> str:
    raise _EncryptedError
