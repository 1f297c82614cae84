"""A proxy with a STATE_FILE that is started again and again, in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from job_client import JobClient, write_templates
from prompt_client import Http

from comfy_proxy.embedded.worker import EmbeddedWorker


class Restarting:
    """Its client is ``http``, and for jobs ``jobs``; each start has the files of the one before."""

    def __init__(
        self, start_proxy: Callable[..., Any], workers: tuple[EmbeddedWorker, ...], directory: Path
    ) -> None:
        self._start_proxy = start_proxy
        self.workers = workers
        self._directory = directory
        self.settings: dict[str, Any] = {
            "workflow_directory": write_templates(_made(directory / "templates")),
            "state_file": directory / "state" / "proxy.sqlite",
        }
        self._copies = 0
        self.http: Http

    @property
    def jobs(self) -> JobClient:
        return JobClient(self.http)

    async def start(self, *workers: EmbeddedWorker, **changes: Any) -> None:
        """In front of ``workers``; of the two if there are none."""
        self.settings |= changes
        self.http = await self._start_proxy(*(workers or self.workers), **self.settings)

    async def stop(self) -> None:
        """As a service manager stops it."""
        await self.http.server.close()
        await self.http.close()

    async def restart(self, *workers: EmbeddedWorker, **changes: Any) -> None:
        await self.stop()
        await self.start(*workers, **changes)

    def killed_now(self) -> None:
        """The next start finds the files as they are at this moment."""
        self._copies += 1
        before, after = self.settings["state_file"].parent, self._directory / f"at {self._copies}"
        shutil.copytree(before, after)
        self.settings["state_file"] = after / self.settings["state_file"].name


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
