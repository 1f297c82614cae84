"""Which instances can run a request, as far as their ``/object_info`` was read already."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.planning.work import Work, work_of
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import WorkflowUnavailableError
from comfy_proxy.jobs.media.file_info import pictures_of
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.workflows.workflow import Missing, Workflow


class Availability:
    """Which instances can run ``workflow`` for the picture and parameters of ``request``."""

    def __init__(self, cluster: Cluster, workflow: Workflow, request: JobRequest) -> None:
        self._cluster = cluster
        self._workflow = workflow
        self._request = request
        self._works = ByInstance[tuple[NodeCatalog, Work | None]]()
        self._runs = ByInstance[tuple[NodeCatalog, bool]]()

    def lacks(self, instance: Instance) -> bool:
        """True if it is known, and that not for too long, that ``instance`` cannot run it.

        False if nothing is known: then it has to be asked.
        """
        return self._cluster.capabilities.lacks(instance, lambda can: self._can_run(instance, can))

    def work_at(self, instance: Instance) -> Work | None:
        """What the request comes to at ``instance``, as far as is known what that can run: else
        what it came to there before, or at another instance; None if nobody is known."""
        known = self._cluster.capabilities.known(instance)
        found = self._works.get(instance)
        if known is None:
            return self._work_anywhere() if found is None else found[1]
        if found is None or found[0] is not known:
            found = self._works[instance] = known, self._work(known)
        return found[1]

    def _work_anywhere(self) -> Work | None:
        capabilities = self._cluster.capabilities
        known = (one for one in self._cluster.instances if capabilities.known(one) is not None)
        works = (self.work_at(one) for one in known)
        return next((work for work in works if work is not None), None)

    def _work(self, known: NodeCatalog) -> Work | None:
        infos = self._request.infos
        try:
            plan = self._workflow.choose(known, infos, self._request.parameters)
        except WorkflowUnavailableError:
            return None
        pictures = pictures_of(infos).values()
        pixels = sum(one.width * one.height for one in pictures) if pictures else None
        return work_of(plan.build({}).prompt, known, pixels=pixels)

    def _can_run(self, instance: Instance, known: NodeCatalog) -> bool:
        """Whenever a place is given this is asked for dozens of jobs."""
        found = self._runs.get(instance)
        if found is None or found[0] is not known:
            found = self._runs[instance] = known, not self._missing(known)
        return found[1]

    def may_run(self, instance: Instance) -> bool:
        """Not :meth:`lacks`."""
        return not self.lacks(instance)

    def require(self) -> None:
        """Raises WorkflowUnavailableError if every instance :meth:`lacks` something; says what."""
        missing: dict[str, Missing] = {}
        for instance in self._cluster.instances:
            known = self._cluster.capabilities.known(instance)
            if known is None or not self.lacks(instance):
                return
            missing[instance.host] = self._missing(known)
        raise _unavailable(self._workflow.name, missing)

    def _missing(self, capabilities: NodeCatalog) -> Missing:
        request = self._request
        return self._workflow.missing(capabilities, request.infos, request.parameters)


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
