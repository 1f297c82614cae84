"""Which prompts at the instances are those of our jobs, though a process before this one sent them.

A job's prompts are sent under a clientId that is made of ``comfy-proxy-``, the name of this proxy
and that of this process. The name of the proxy is a random text in the state file. Without that
file it is a hash of what no other proxy has at the same time: machine, address and port, user and
instances; and a lock proves that no process lives which would have the same name. Where neither can
be had no prompt is taken for ours.
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
    """``own`` is the prefix of each clientId of this proxy, ``now`` that of this process."""

    own: str
    now: str

    def is_orphan(self, client_id: str | None) -> bool:
        """Whether ``client_id`` is that of an earlier process of this proxy, which has ended."""
        if client_id is None:
            return False
        return client_id.startswith(self.own) and not client_id.startswith(self.now)


def identity_of(name: str) -> Identity:
    """The identity of a new process of the proxy with that name."""
    own = f"{PREFIX}{name}-"
    return Identity(own, f"{own}{uuid.uuid4().hex[:12]}-")


class Lock:
    """One process at a time holds the lock of a name; the kernel frees it when that process ends.

    It is a socket with an abstract name (unix(7)), so it leaves no file behind, and proxies that
    share an address share the lock, in containers too. Only Linux has such names.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def take(self, name: str) -> bool:
        """False if another process has it, or this system has no such locks."""
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
        """Give the lock back, if it was taken."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def name_by_place(settings: Settings) -> str:
    """The name of a proxy with these settings on this machine."""
    user = "?"
    with suppress(OSError, KeyError, ImportError):  # a container's user need not have a name
        user = getpass.getuser()
    urls = sorted(map(str, settings.instances))
    place = [socket.gethostname(), settings.host, str(settings.port), user, *urls]
    return hashlib.sha256("\n".join(place).encode()).hexdigest()[:16]
