"""What the log tells of templates at the start and when they are read again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from loguru import logger
from template_files import RAW, write

from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.jobs.workflows.watch import TemplateWatch


async def _nothing_changes(directory: Path) -> AsyncIterator[None]:
    await asyncio.Event().wait()
    yield


async def test_one_line_tells_all_mistakes(tmp_path: Path) -> None:
    """The log writes only the first five of lines that are alike."""
    names = [f"{at:02}.json" for at in range(37)]
    for name in names:
        write(tmp_path, name, "[")
    lines: list[str] = []
    logger.add(lines.append, level="ERROR", format="{message}")
    watch = TemplateWatch(load_workflows(tmp_path), tmp_path, changes=_nothing_changes)
    watch.start()
    try:
        (line,) = lines
        assert line.startswith("workflow templates cannot be used: 00.json: is not JSON")
        assert all(f" {name}: is not JSON" in line for name in names)
        for name in names[1:]:
            write(tmp_path, name, RAW)
        await watch.read()
        assert lines[1].startswith("workflow templates cannot be used: 00.json: is not JSON")
        assert len(lines) == 2
    finally:
        await watch.close()
