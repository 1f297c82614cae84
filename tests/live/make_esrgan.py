"""Writes a tiny ESRGAN of random weights: enough for the real UpscaleModelLoader path.

Usage: python make_esrgan.py FILE [FILTERS BLOCKS], with the Python of the ComfyUI installation
(torch, spandrel).
"""

import importlib
import sys

import torch


def main(path: str, filters: int = 32, blocks: int = 1) -> None:
    """Four times the size; with 32 filters and one block a tenth of a second on a CPU."""
    architecture = importlib.import_module("spandrel.architectures.ESRGAN.__arch.RRDB")
    torch.manual_seed(0)
    network = architecture.RRDBNet(
        in_nc=3, out_nc=3, num_filters=filters, num_blocks=blocks, scale=4
    )
    torch.save(network.state_dict(), path)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
