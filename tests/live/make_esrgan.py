"""Writes an ESRGAN of random weights: enough for the real UpscaleModelLoader path.

Usage: python make_esrgan.py FILE [FILTERS BLOCKS], with the Python of the ComfyUI installation
(torch, spandrel). Four times the size; with 32 filters and one block a tenth of a second on a CPU,
with 256 filters a file of 15 MB for each block.
"""

import importlib
import os
import sys

import torch

SAMPLES = 8


def main(path: str, filters: int = 32, blocks: int = 1) -> None:
    """The file is under its name once it is whole."""
    architecture = importlib.import_module("spandrel.architectures.ESRGAN.__arch.RRDB")
    torch.manual_seed(blocks)
    network = architecture.RRDBNet(
        in_nc=3, out_nc=3, num_filters=filters, num_blocks=blocks, scale=4
    )
    with torch.inference_mode():
        spread(network)
    torch.save(network.state_dict(), f"{path}.part")
    os.replace(f"{path}.part", path)


def spread(network: torch.nn.Module) -> None:
    """Scale the last layer so that pictures of different colours come out as different ones;
    with mere random weights all of them would be almost black."""
    made = network(torch.rand(SAMPLES, 3, 1, 1).expand(-1, -1, 8, 8))
    last = [one for one in network.modules() if isinstance(one, torch.nn.Conv2d)][-1]
    mean, scale = made.mean((0, 2, 3)), 0.25 / made.std((0, 2, 3))
    last.weight *= scale[:, None, None, None]
    last.bias.copy_((last.bias - mean) * scale + 0.5)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
