"""What the proxy shows of itself: the events of its dashboard, as operations of the client."""

from __future__ import annotations

import json
from typing import Any, Final

from comfy_proxy.client.answers import NOT_THE_PROXY
from comfy_proxy.client.effects import Call, Emit, NextEvent, Operation, Sleep
from comfy_proxy.client.errors import ClientError, UnreachableError
from comfy_proxy.client.exchange import exchange
from comfy_proxy.client.policy import Policy, Tries

_CALL: Final = Call(method="GET", path="dashboard/events", headers={"Accept": "text/event-stream"})


def watch(policy: Policy) -> Operation[None]:
    """Emit each snapshot (``dashboard/snapshot.py``), over broken connections too."""
    tries = Tries(policy)
    while True:
        yield from exchange(_CALL, policy, streamed=True, tries=tries)
        broken: UnreachableError | None = None
        try:
            while (heard := (yield NextEvent())) is not None:
                tries.succeeded()
                if heard.event == "state":
                    yield Emit(_read(heard.data))
        except UnreachableError as error:
            broken = error
        pause_s = tries.pause_s()
        if pause_s is None:
            raise broken or UnreachableError("The proxy has ended.")
        yield Sleep(pause_s)


def one_snapshot(policy: Policy) -> Operation[dict[str, Any]]:
    """How it is now. Raises UnreachableError if it ends before it has told."""
    yield from exchange(_CALL, policy, streamed=True)
    while (heard := (yield NextEvent())) is not None:
        if heard.event == "state":
            return _read(heard.data)
    raise UnreachableError("The proxy has ended.")


def _read(data: str) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except ValueError:
        told = None
    if not isinstance(told, dict) or not told.keys() >= {"instances", "queue", "totals", "jobs"}:
        raise ClientError("What the proxy shows of itself cannot be read.", code=NOT_THE_PROXY)
    return told
