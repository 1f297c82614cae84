"""Which instances can run a request, as far as their ``/object_info`` was read already."""

from __future__ import annotations

from collections.abc import Container, Mapping

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.planning.work import Work, work_of
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError, WorkflowUnavailableError
from comfy_proxy.jobs.media.file_info import pictures_of
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.workflows.plan import Plan
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
            plan = self._plan(known)
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

    async def may_differ(
        self, instance: Instance, sent: Plan | None, rejected_by: Container[Instance]
    ) -> bool:
        """Whether the request may be taken after all, although ``instance`` has refused ``sent``.

        It is asked anew: a model file may have gone away since. If it runs the same as before, and
        lists each value, all others would refuse it too. One that it does not list may be listed
        by an instance that is not in ``rejected_by``.
        """
        self._cluster.capabilities.forget(instance)
        try:
            known = await self._cluster.capabilities.get(instance)
            plan = self._plan(known)
        except (InstanceError, WorkflowUnavailableError):
            return True
        others = (one for one in self._cluster.instances if one not in rejected_by)
        return plan != sent or (_names_unlisted(plan, known) and any(map(self._takes, others)))

    def _takes(self, instance: Instance) -> bool:
        """As far as is known ``instance`` lists each value of the request."""
        known = self._cluster.capabilities.known(instance)
        try:
            return known is None or not _names_unlisted(self._plan(known), known)
        except WorkflowUnavailableError:
            return False

    def _plan(self, known: NodeCatalog) -> Plan:
        return self._workflow.choose(known, self._request.infos, self._request.parameters)

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


def _names_unlisted(plan: Plan, known: NodeCatalog) -> bool:
    """Whether a text in the graph is none of those that are listed for its input. What is uploaded
    for the request is not looked at: nobody can have listed it."""
    uploads = {to for inputs in plan.files.values() for to in inputs}
    for node, body in plan.graph.items():
        for name, literal in body["inputs"].items():
            value = plan.values.get((node, name), literal)
            if not isinstance(value, str) or (node, name) in uploads:
                continue
            offered = known.choices(str(body["class_type"]), name)
            if offered is not None and value not in offered:
                return True
    return False


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
