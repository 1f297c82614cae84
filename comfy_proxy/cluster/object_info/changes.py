"""What has changed at the instances since they were asked for ``/object_info``. No I/O.

Files come and go without a word: somebody copies a model to one instance, or pictures into its
input directory. ComfyUI's lists of folders are cheap (it looks at the times of the directories), so
they are what is looked at, and classes are asked again only after a list has changed.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import UPLOAD_SUBFOLDER
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance

MAX_FOLDERS = 10_000
"""Folders of the input directory that are known from uploads. Beyond, a new one is not known: its
files are brought to where a prompt names them one by one, but not where it names the folder."""


@dataclass(frozen=True, slots=True)
class News:
    """How many changes of an instance's models and inputs are known of, and how many folders were
    uploaded to. An answer knows nothing of later ones."""

    models: int = 0
    inputs: int = 0
    folders: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderLists:
    """What an instance lists at one moment, as digests. What it did not list is not here.

    ``models``: the files by the name of their folder. ``inputs``: the files directly in the input
    directory, and what a class says that lists the folders in it.
    """

    models: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    inputs: Mapping[str, bytes] = field(default_factory=dict, repr=False)


class Changes:
    """Instance → what it listed last, and how often that was something else than before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listed = ByInstance[tuple[float, FolderLists]]()
        self._models = ByInstance[int](lambda instance: 0)
        self._inputs = ByInstance[int](lambda instance: 0)
        self.input_folders: set[str] = {UPLOAD_SUBFOLDER}
        """Folders of the input directory that files were uploaded to, with those above them."""

    def news(self, instance: Instance) -> News:
        """What is known of by now."""
        return News(self._models[instance], self._inputs[instance], len(self.input_folders))

    def uploaded_to(self, folder: str) -> None:
        """A file came into that folder of the input directory; ``""`` is the directory itself."""
        while folder and len(self.input_folders) < MAX_FOLDERS:
            self.input_folders.add(folder)
            folder = posixpath.dirname(folder)

    def age_s(self, instance: Instance) -> float:
        """The seconds since its lists came; infinite if they never did."""
        listed = self._listed.get(instance)
        return float("inf") if listed is None else self._clock.monotonic() - listed[0]

    def listed(self, instance: Instance) -> FolderLists | None:
        """What it listed last; None if it was never asked, or was away since."""
        listed = self._listed.get(instance)
        return None if listed is None else listed[1]

    def seen(self, instance: Instance, lists: FolderLists) -> None:
        """It lists that now. Lists that are the first ones count as changed: nobody knows since
        when they are so."""
        before = self.listed(instance)
        if before is None or _differ(before.models, lists.models):
            self._models[instance] += 1
        if before is None or _differ(before.inputs, lists.inputs):
            self._inputs[instance] += 1
        if before is not None:  # what it refused to list this time stays as it was
            lists = replace(
                lists,
                models={**before.models, **lists.models},
                inputs={**before.inputs, **lists.inputs},
            )
        self._listed[instance] = self._clock.monotonic(), lists

    def forget(self, instance: Instance) -> None:
        """It was away: what comes back may be another installation."""
        self._listed.pop(instance, None)


def _differ(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bool:
    return any(before.get(name) != listed for name, listed in after.items())
