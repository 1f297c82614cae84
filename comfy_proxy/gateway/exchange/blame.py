"""Who broke an exchange that has a client at one end and an instance at the other."""

from __future__ import annotations

from types import TracebackType

from comfy_proxy.bodies import ClientBody
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.translation import of_instance
from comfy_proxy.errors import InstanceError


class told_apart:  # noqa: N801 - reads as what it does: ``with told_apart(instance)``
    """Around an exchange with ``instance`` for a client, to which ``body`` is sent: who broke it?

    Raises InstanceError, which names the instance by its number alone, as clients are to know it;
    if the client's body could not be read, why it could not (RequestError or ClientGoneError).
    """

    __slots__ = ("_body", "_instance")

    def __init__(self, instance: Instance, body: ClientBody | None = None) -> None:
        self._instance = instance
        self._body = body

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        found = of_instance(error, f"ComfyUI instance {self._instance.id}")
        if found is None and not isinstance(error, InstanceError):
            return
        if self._body is not None and self._body.error is not None:
            raise self._body.error from error
        if found is not None:
            raise found from error
