"""Which prompts at the instances are those of our jobs, though a process before this one sent them.

A job's prompts are sent under a clientId that begins with ``comfy-proxy-``, with who we are, and
with which of our processes it was. Who we are is a random text in the state file. Without that file
it is made of what no other proxy has at the same time: this machine, address and port, user and
instances; and a lock proves that no process lives that would say the same of itself. Where neither
can be had, nothing is taken for ours.
"""

from __future__ import annotations

import getpass
import hashlib
import socket
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass

from comfy_proxy.settings import Settings

PREFIX = "comfy-proxy-"


@dataclass(frozen=True, slots=True)
class Identity:
    """``own`` begins every clientId of this proxy, ``now`` those of this process."""

    own: str
    now: str

    def is_orphan(self, client_id: str | None) -> bool:
        """A process before this one had it, and it has ended."""
        if client_id is None:
            return False
        return client_id.startswith(self.own) and not client_id.startswith(self.now)


def identity_of(name: str) -> Identity:
    """That of the proxy which is called ``name``."""
    own = f"{PREFIX}{name}-"
    return Identity(own, f"{own}{uuid.uuid4().hex[:12]}-")


class Lock:
    """One process at a time holds the lock of a name; the kernel frees it however that ends.

    It is a socket with an abstract name (unix(7)), so it leaves no file behind, and proxies that
    share an address share the lock, in containers too. Only Linux has such names.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def take(self, name: str) -> bool:
        """False if another one has it, or there are no such locks here."""
        if sys.platform != "linux":
            return False
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            taken.bind(f"\0{PREFIX}{name}")
        except OSError:
            taken.close()
            return False
        self._socket = taken
        return True

    def release(self) -> None:
        """Whoever wants it may have it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def name_by_place(settings: Settings) -> str:
    """What a proxy with these settings is called on this machine."""
    user = "?"
    with suppress(OSError, KeyError, ImportError):  # a container's user need not have a name
        user = getpass.getuser()
    urls = sorted(map(str, settings.instances))
    place = [socket.gethostname(), settings.host, str(settings.port), user, *urls]
    return hashlib.sha256("\n".join(place).encode()).hexdigest()[:16]
