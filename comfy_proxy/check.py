"""``comfy-proxy check``: what each configured instance answers and which workflows it can run."""

from __future__ import annotations

from collections.abc import Callable

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.errors import InstanceError
from comfy_proxy.jobs.api import SHORTCUTS
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.jobs.workflows.registry import WorkflowRegistry
from comfy_proxy.jobs.workflows.workflow import Workflow
from comfy_proxy.settings import Settings

CHECK_TIMEOUT_S = 5.0
"""Seconds for an instance's answer; beyond, the command names that instance and exits with 1."""


async def check_instances(settings: Settings, say: Callable[[str], None]) -> int:
    """Ask each instance once and tell of it through ``say``, one line a call.

    Returns the exit code: 0 if all answer, each workflow can run on one of them and no template has
    a mistake in it, else 1. Shipped workflows without an address of their own, like text-to-image,
    need models that not everybody has: that none can run them is told, and is no mistake.
    """
    workflows = load_workflows(settings.workflow_directory)
    for problem in workflows.problems:
        say(f"{problem}")
    cluster = Cluster(settings, classes=workflows.required_classes())
    await cluster.connections.start()
    try:
        runnable: set[str] = set()
        answered = [
            await _check(instance, cluster, workflows, runnable, say)
            for instance in cluster.instances
        ]
    finally:
        await cluster.close()
    for name in sorted(set(workflows.names()) - runnable):
        say(f"no instance can run {name}")
    extra = set(load_workflows(None).names()) - set(SHORTCUTS)
    ready = all(answered) and runnable >= set(workflows.names()) - extra
    return 0 if ready and not workflows.problems else 1


async def _check(
    instance: Instance,
    cluster: Cluster,
    workflows: WorkflowRegistry,
    runnable: set[str],
    say: Callable[[str], None],
) -> bool:
    try:
        await cluster.clients[instance].check(CHECK_TIMEOUT_S)
        capabilities = await cluster.capabilities.get(instance)
    except InstanceError as error:
        say(f"{instance.host}: {error.message}")
        return False
    say(f"{instance.host}: answers")
    for name, lacks in what_lacks(workflows, capabilities).items():
        if lacks:
            say(f"  {name}: cannot run ({lacks})")
        else:
            runnable.add(name)
            say(f"  {name}: runs{_doubt(workflows.get(name), capabilities)}")
    return True


def _doubt(workflow: Workflow, capabilities: NodeCatalog) -> str:
    """What may be wrong with it all the same: a node that is no output node has no result, unless
    its class tells of some against ComfyUI's rule."""
    nodes = [one for variant in workflow.variants for one in variant.no_outputs(capabilities)]
    told = f", but its results are to come from {', '.join(nodes)}: no output node"
    return told if nodes else ""


def what_lacks(workflows: WorkflowRegistry, capabilities: NodeCatalog) -> dict[str, str]:
    """For each workflow, in words, what an instance with these capabilities lacks of each variant;
    nothing if it can run one of them."""
    lacking = {name: workflows.get(name).missing(capabilities) for name in workflows.names()}
    return {
        name: "; ".join(f"{variant} lacks {', '.join(lack)}" for variant, lack in missing.items())
        for name, missing in lacking.items()
    }
