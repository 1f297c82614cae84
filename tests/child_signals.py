"""Signals of the processes that tests start, whatever started the tests."""

from __future__ import annotations

import signal


def listen_to_all() -> None:
    """For ``preexec_fn``: SIGINT and SIGHUP do to the child what they do by default.

    Under ``nohup``, and in the background of a script, a process ignores them, and so would its
    children: a proxy or demo that is started like that rightly stays.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
