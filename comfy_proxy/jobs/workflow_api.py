"""``GET /api/workflows`` and ``/api/workflows/{name}``: what can be run, with what, and where."""

from __future__ import annotations

from aiohttp import web

from comfy_proxy.jobs.answers import json_answer, root_of
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.view_types import ProblemView, VariantView, WorkflowList, WorkflowView
from comfy_proxy.jobs.workflows.parameter import schema_of
from comfy_proxy.jobs.workflows.workflow import Workflow
from comfy_proxy.keys import JOBS


async def list_all(request: web.Request) -> web.Response:
    """``GET /api/workflows``."""
    service, root = request.app[JOBS], root_of(request)
    problems: list[ProblemView] = [
        {"file": one.file, "key": one.key, "reason": one.reason}
        for one in service.workflows.problems
    ]
    workflows = [_view(one, service, root) for one in service.workflows]
    listed: WorkflowList = {"workflows": workflows, "problems": problems}
    return json_answer(listed)


async def one(request: web.Request) -> web.Response:
    """``GET /api/workflows/{name}``. Raises NotFoundError."""
    service = request.app[JOBS]
    workflow = service.workflows.get(request.match_info["name"])
    return json_answer(_view(workflow, service, root_of(request)))


def _view(workflow: Workflow, service: JobService, root: str) -> WorkflowView:
    return {
        "name": workflow.name,
        "title": workflow.title,
        "description": workflow.description,
        "url": f"{root}/api/workflows/{workflow.name}",
        "parameters": schema_of(workflow.parameters),
        "file_parameters": list(workflow.files),
        "variants": _variants(workflow, service),
    }


def _variants(workflow: Workflow, service: JobService) -> list[VariantView]:
    """Each variant in the order of preference: which instances can run it, as far as is known, and
    what the others lack."""
    views = {one.name: _unknown(one.name) for one in workflow.variants}
    for instance in service.cluster.instances:
        known = service.cluster.capabilities.known(instance)
        if known is None:
            continue
        for name, lacking in workflow.missing_by_variant(known).items():
            if lacking:
                views[name]["missing"][instance.host] = lacking
            else:
                views[name]["runs_on"].append(instance.host)
    return list(views.values())


def _unknown(name: str) -> VariantView:
    return {"name": name, "runs_on": [], "missing": {}}
