"""Which instances can run a request, as far as their ``/object_info`` was read already."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_proxy.cluster.capabilities import Capabilities
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import WorkflowUnavailableError
from comfy_proxy.jobs.intake import JobRequest
from comfy_proxy.jobs.workflows import Missing, Workflow


class Availability:
    """Which instances can run ``workflow`` for the picture and parameters of ``request``."""

    def __init__(self, cluster: Cluster, workflow: Workflow, request: JobRequest) -> None:
        self._cluster = cluster
        self._workflow = workflow
        self._request = request

    def lacks(self, instance: Instance) -> bool:
        """True if it is known, and that not for too long, that ``instance`` cannot run it.

        False if nothing is known: then it has to be asked.
        """
        return self._cluster.capabilities.lacks(instance, lambda can: not self._missing(can))

    def require(self) -> None:
        """Raises WorkflowUnavailableError if every instance :meth:`lacks` something; says what."""
        missing: dict[str, Missing] = {}
        for instance in self._cluster.instances:
            known = self._cluster.capabilities.known(instance)
            if known is None or not self.lacks(instance):
                return
            missing[instance.host] = self._missing(known)
        raise _unavailable(self._workflow.name, missing)

    def _missing(self, capabilities: Capabilities) -> Missing:
        info = self._request.picture.info
        return self._workflow.missing(capabilities, info, self._request.parameters)


def _unavailable(workflow: str, missing: Mapping[str, Missing]) -> WorkflowUnavailableError:
    """The error when no instance can run ``workflow``; ``missing`` is by ``host:port``."""
    places = "; ".join(
        f"{host} lacks {' or '.join(', '.join(lacks) for lacks in variants.values())}"
        for host, variants in missing.items()
    )
    return WorkflowUnavailableError(
        f"No instance can run {workflow!r}: {places}.",
        details={"missing": dict(missing)},
        retry_after_s=30,
    )
