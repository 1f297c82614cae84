"""large_blocks.py: what a burst took goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from comfy_proxy.large_blocks import give_back_large_blocks

_BURST = """
from comfy_proxy.large_blocks import give_back_large_blocks
give_back_large_blocks()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before = resident()
for _ in range(3):
    blocks = []
    for _ in range(10):
        blocks += [bytes(b"x" * 12_000_000), bytes(b"y" * 1000)]
    small = blocks[1::2]
    del blocks
print(resident() - before)
"""


@pytest.mark.skipif(not give_back_large_blocks(), reason="the C library is not glibc")
def test_a_burst_of_large_frames_leaves_nothing_behind() -> None:
    """Of 120 MB, three times, less than one frame stays with the process."""
    command = [sys.executable, "-c", _BURST]
    left = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(left) < 12_000_000


_FRAMES = """
import resource
from comfy_proxy.large_blocks import give_back_large_blocks
give_back_large_blocks()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def frames():
    return [bytes(bytearray(250_000)) for _ in range(8)]
for _ in range(10):
    frames()
before = faults()
for _ in range(100):
    frames()
print(faults() - before)
"""


@pytest.mark.skipif(not give_back_large_blocks(), reason="the C library is not glibc")
def test_the_memory_of_a_frame_is_used_again_for_the_next_one() -> None:
    """A hundred times eight frames of 250 KB: less than a page is made for all eight, where it
    would be 500 if their memory went back to the system in between."""
    command = [sys.executable, "-c", _FRAMES]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(made) < 100
