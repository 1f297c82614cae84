"""What out of memory looks like, how much memory there is, and where there is more of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from manual_clock import ManualClock

from comfy_proxy import Settings
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.gpu_memory import once_more
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_outcomes import node_error, told_by
from comfy_proxy.cluster.system_stats import keeps_several, read_vram_total
from comfy_proxy.errors import GpuMemoryError, JobError, WorkflowError
from comfy_proxy.settings import parse_instance


def error(kind: object = "RuntimeError", message: object = "") -> dict[str, Any]:
    return {
        "node_id": "3",
        "node_type": "KSampler",
        "exception_type": kind,
        "exception_message": message,
        "traceback": ["at ", "here"],
    }


@pytest.fixture
def cluster(clock: ManualClock) -> Cluster:
    """Three instances; none was asked anything."""
    instances = tuple(parse_instance(f"gpu{number}:8188") for number in range(3))
    return Cluster(Settings(instances=instances), clock=clock)


def anywhere(instance: Instance) -> bool:
    return True


@pytest.mark.parametrize(
    "told",
    [
        error("torch.OutOfMemoryError", "Allocation on device "),
        error("torch.cuda.OutOfMemoryError"),
        error("OutOfMemoryError"),
        error("some.node.OutOfMemoryError", "HIP out of memory."),
        error("RuntimeError", "Allocation on device 0 would exceed allowed memory."),
        error("RuntimeError", "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 8 GiB)"),
        error("RuntimeError", "HIP out of memory. Tried to allocate 2.00 GiB"),
        error("torch.AcceleratorError", "CUDA error: out of memory\nCUDA kernel errors"),
        error("RuntimeError", "MPS backend out of memory (MPS allocated: 17.97 GB)"),
        error("RuntimeError", "x\nThis error means you ran out of memory on your GPU."),
        error(
            "RuntimeError", "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        ),
        error("RuntimeError", "DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
    ],
    ids=lambda told: f"{told['exception_type']} {told['exception_message'][:24]}",
)
def test_out_of_memory_is_recognised(told: dict[str, Any]) -> None:
    """By its type, or by words that only mean this; the frame and the history say the same."""
    assert isinstance(node_error(told), GpuMemoryError)
    status = {"status_str": "error", "messages": [["execution_error", told]]}
    entry = told_by({"status": status})
    assert entry is not None
    assert isinstance(entry.error, GpuMemoryError)


@pytest.mark.parametrize(
    "told",
    [
        error("RuntimeError", "CUDA out of memory (simulated)"),
        error("ValueError", "the picture is too large"),
        error("MemoryError", "no memory for the picture"),
        error(None, None),
        error(["OutOfMemoryError"], {}),
    ],
)
def test_other_errors_are_not(told: dict[str, Any]) -> None:
    """What may be in the words of any node; what is no text."""
    assert type(node_error(told)) is WorkflowError


def test_what_is_told_of_it() -> None:
    """The node, that memory was wanting, the first of ComfyUI's words; of a second one that too.
    The traceback goes along, for our log."""
    first = node_error(error("torch.OutOfMemoryError", "Allocation on device \nThis error means …"))
    message = "KSampler (node 3): the GPU ran out of memory (Allocation on device)."
    assert isinstance(first, GpuMemoryError)
    assert (first.message, first.code, first.status) == (message, "out_of_memory", JobError.status)
    again = once_more(first)
    assert again.message == f"{message} It was the second try, after memory had been freed."
    assert again.details == {"type": "torch.OutOfMemoryError"}
    assert again.node_traceback == first.node_traceback == "at here"


@pytest.mark.parametrize(
    ("devices", "total"),
    [
        ([{"vram_total": 8}, {"vram_total": 9}], 8),
        ([{"vram_total": 8.0}], 8),
        ([{"name": "cpu"}], None),
        ([{"vram_total": 0}], None),
        ([{"vram_total": -1}], None),
        ([{"vram_total": math.nan}], None),
        ([{"vram_total": math.inf}], None),
        ([{"vram_total": "8"}], None),
        ([{"vram_total": True}], None),
        ([None], None),
        ([], None),
        ({}, None),
        (None, None),
    ],
)
def test_the_first_device_counts(devices: object, total: int | None) -> None:
    """It is the one that ComfyUI works on; what is no number of bytes is none."""
    assert read_vram_total({"system": {}, "devices": devices}) == total


def test_what_a_check_tells_reaches_the_planner(cluster: Cluster) -> None:
    """Whenever it changes, and what was planned with another figure is planned anew. Of one that
    lets go of what a prompt does not use the bytes mean nothing."""
    instance, other, _ = cluster.instances
    line = cluster.planner.lines[instance]
    instance.vram_total = 8
    cluster.gpu_memory.heard(instance)
    assert (line.loaded.memory.total, line.changes) == (None, 0)
    instance.keeps_several = True
    for total, changes in ((8, 1), (8, 1), (6, 2), (None, 3)):
        instance.vram_total = total
        cluster.gpu_memory.heard(instance)
        assert line.loaded.memory.total == total
        assert line.changes == changes
    assert cluster.planner.lines[other].changes == 0


def test_what_was_seen_with_another_memory_is_forgotten(cluster: Cluster) -> None:
    """It was started with other options, or on another card."""
    instance, *_ = cluster.instances
    memory = cluster.planner.lines[instance].loaded.memory
    memory.sets = 3
    cluster.gpu_memory.heard(instance)
    assert memory.sets == 3
    instance.vram_total, instance.keeps_several = 8, True
    cluster.gpu_memory.heard(instance)
    assert memory.sets is None


def test_where_there_is_more(cluster: Cluster) -> None:
    """All that have no more are avoided; none if nobody has more, or nobody knows."""
    one, two, three = cluster.instances
    memory = cluster.gpu_memory
    assert memory.too_small(one, anywhere) == set()
    two.vram_total, three.vram_total = 8, 16
    assert memory.too_small(one, anywhere) == set()
    one.vram_total = 8
    assert memory.too_small(one, anywhere) == {one, two}
    assert memory.too_small(three, anywhere) == set()


def test_more_memory_must_be_of_use(cluster: Cluster) -> None:
    """An instance that is away, or cannot run it, does not count."""
    one, two, three = cluster.instances
    one.vram_total, two.vram_total, three.vram_total = 8, 8, 16
    assert cluster.gpu_memory.too_small(one, lambda instance: instance is not three) == set()
    for _ in range(3):
        three.fault("away")
    assert not three.healthy
    assert cluster.gpu_memory.too_small(one, anywhere) == set()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["main.py", "--cache-lru", "10"], True),
        (["main.py", "--cache-ram=4"], True),
        (["main.py", "--cpu"], False),
        ([], False),
        (None, False),
        ([1, None], False),
    ],
)
def test_by_which_options_models_of_several_prompts_are_kept(argv: Any, expected: bool) -> None:
    assert keeps_several({"system": {"argv": argv}}) is expected
    assert not keeps_several({})
