"""A GPU that has none: which simulated models are loaded, and how long it takes to load one."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from comfy_proxy.embedded.faults import Faults

TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before "
    "you might have accidentally set the batch_size to a large number."
)
"""ComfyUI's own words in the error report of a prompt that ran out of memory."""


class OutOfMemoryError(RuntimeError):
    """Reported as `torch.OutOfMemoryError`, the name it has in a real ComfyUI."""

    tips = TIPS


OutOfMemoryError.__module__ = "torch"


@dataclass(frozen=True, kw_only=True)
class SimulatedModels:
    """Model files that are names and sizes only, and the GPU that they are loaded into.

    `files`: bytes by name. `vram`: the GPU's bytes; 0 has room for the largest file and no more.
    `load_s`: seconds to load the largest file; a smaller one takes proportionally less. `speed`
    divides the times of all loads and runs.
    """

    files: Mapping[str, int] = field(default_factory=dict)
    vram: int = 0
    load_s: float = 1.5
    speed: float = 1.0

    def __post_init__(self) -> None:
        if self.files and min(self.files.values()) <= 0:
            raise ValueError("A simulated model has at least one byte.")
        if self.speed <= 0:
            raise ValueError("The speed of a simulated GPU is more than 0.")

    def load_time_s(self, name: str) -> float:
        return self.load_s * self.files[name] / max(self.files.values()) / self.speed

    @property
    def vram_total(self) -> int:
        return self.vram or max(self.files.values(), default=0)


class SimulatedGpu:
    """Keeps what is loaded, the least recently used first, within the bytes of its memory.

    Used from the executor's thread and, for `/system_stats` and `/free`, from the event loop.
    `loads` is where each load that came to its end is noted by name.
    """

    def __init__(self, models: SimulatedModels, faults: Faults, loads: list[str]) -> None:
        self.models = models
        self.loads = loads
        self._faults = faults
        self._loaded: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def loaded(self) -> list[str]:
        """The loaded models, the most recently used last."""
        with self._lock:
            return list(self._loaded)

    @property
    def vram_free(self) -> int:
        """Bytes that no model takes; a model larger than the whole memory leaves 0."""
        with self._lock:
            return max(0, self.models.vram_total - sum(self._loaded.values()))

    def hold(self, name: str, wait_until: Callable[[float], None]) -> None:
        """Have a model loaded: at once if it is, else after its time and in the place of others.

        `wait_until` sleeps until a monotonic time. An interrupt that it raises leaves the model
        unloaded; what made room for it is gone, as in ComfyUI.
        """
        if self._take(name):
            return
        wait_until(time.monotonic() + self.models.load_time_s(name))
        with self._lock:
            self._loaded[name] = self.models.files[name]
        self.loads.append(name)

    def _take(self, name: str) -> bool:
        """Mark a loaded model as used last and return True; else make room for it."""
        with self._lock:
            if (size := self._loaded.pop(name, None)) is not None:
                self._loaded[name] = size
                return True
            allowed = self.models.vram_total - self.models.files[name]
            while self._loaded and sum(self._loaded.values()) > allowed:
                del self._loaded[next(iter(self._loaded))]
            return False

    def check_memory(self) -> None:
        """Raise OutOfMemoryError while the fault `oom_until_free` is on; all models are unloaded
        then, as ComfyUI does it after such an error."""
        if self._faults.oom_until_free:
            self.unload()
            raise OutOfMemoryError("Allocation on device ")

    def unload(self) -> None:
        """Forget every model."""
        with self._lock:
            self._loaded.clear()
