"""SimulatedModelLoader and SimulatedSampler: models that cost time and memory, and nothing else.

For tests and benchmarks of where prompts are run; there only if simulated models are configured.
"""

import hashlib
import time

import numpy as np

from comfy_proxy.embedded.nodes.node_class import (
    Context,
    Json,
    NodeClass,
    Pixels,
    Result,
    Run,
    entry,
    number,
    size,
)
from comfy_proxy.embedded.nodes.testing import MODULE, SALT, SECONDS
from comfy_proxy.embedded.simulated_gpu import SimulatedGpu

MAX_SIDE = 64  # pixels: pictures tell models and seeds apart, their size means nothing


def simulated(gpu: SimulatedGpu) -> tuple[NodeClass, ...]:
    """Both classes, on that GPU; none if it has no models."""
    if not gpu.models.files:
        return ()

    def load_model(context: Context, inputs: Json) -> Result:
        gpu.hold(inputs["ckpt_name"], context.wait_until)
        return Result(outputs=(inputs["ckpt_name"],))

    def sample(context: Context, inputs: Json) -> Result:
        """The model may have been evicted since its loader ran, or came from the node cache."""
        gpu.hold(inputs["model"], context.wait_until)
        gpu.check_memory()
        start, steps = time.monotonic(), inputs["steps"]
        seconds = inputs["seconds"] / gpu.models.speed
        for step in range(1, steps + 1):
            context.wait_until(start + seconds * step / steps)
            context.progress(step, steps)
        return Result(outputs=(_pictures(inputs),))

    return (_loader(gpu, load_model), NodeClass(name="SimulatedSampler", entry=SAMPLER, run=sample))


def _loader(gpu: SimulatedGpu, run: Run) -> NodeClass:
    ckpt_name = [list(gpu.models.files), {"tooltip": "The name of the simulated model to load."}]
    return NodeClass(
        name="SimulatedModelLoader",
        entry=entry(
            "SimulatedModelLoader",
            "SimulatedModelLoader",
            category="testing",
            module=MODULE,
            inputs={"ckpt_name": ckpt_name},
            outputs=("MODEL",),
        ),
        run=run,
    )


def _pictures(inputs: Json) -> Pixels:
    """A batch of one colour, which model and seed decide."""
    digest = hashlib.sha256(f"{inputs['model']} {inputs['seed']}".encode()).digest()
    colour = np.frombuffer(digest[:3], np.uint8).astype(np.float32) / np.float32(255.0)
    height, width = min(inputs["height"], MAX_SIDE), min(inputs["width"], MAX_SIDE)
    return np.broadcast_to(colour, (inputs["batch_size"], height, width, 3)).copy()


SAMPLER = entry(
    "SimulatedSampler",
    "SimulatedSampler",
    category="testing",
    module=MODULE,
    inputs={
        "model": ["MODEL"],
        "steps": number(4, 1, 10000),
        "width": size(512, 1),
        "height": size(512, 1),
        "batch_size": number(1, 1, 4096),
        "seed": SALT,
        "seconds": SECONDS,
    },
    outputs=("IMAGE",),
)
