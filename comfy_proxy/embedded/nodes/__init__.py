"""The node classes of a worker: `node_classes()` makes its table."""

from collections.abc import Iterable, Sequence

from comfy_proxy.embedded.nodes.background import BACKGROUND
from comfy_proxy.embedded.nodes.masks import MASKS
from comfy_proxy.embedded.nodes.node_class import NodeClass
from comfy_proxy.embedded.nodes.outputs import OUTPUTS
from comfy_proxy.embedded.nodes.pictures import PICTURES
from comfy_proxy.embedded.nodes.simulated import simulated
from comfy_proxy.embedded.nodes.sources import SOURCES
from comfy_proxy.embedded.nodes.testing import TESTING
from comfy_proxy.embedded.nodes.upscaling import upscaling
from comfy_proxy.embedded.simulated_gpu import SimulatedGpu


def node_classes(
    *,
    test_nodes: bool,
    upscale_models: Sequence[str],
    missing_nodes: Iterable[str],
    gpu: SimulatedGpu,
) -> dict[str, NodeClass]:
    """The classes by name: with those of `testing.py` if asked for, without `missing_nodes`.

    The nodes of simulated models are among them if `gpu` has any.
    """
    absent = set(missing_nodes)
    groups = (
        *(SOURCES, PICTURES, MASKS, OUTPUTS, BACKGROUND, upscaling(upscale_models)),
        simulated(gpu),
        *((TESTING,) if test_nodes else ()),
    )
    classes = (node_class for group in groups for node_class in group)
    return {one.name: one for one in classes if one.name not in absent}
