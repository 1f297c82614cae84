"""Instances that come back with an empty disk: names of results that were told before lead nowhere.

ComfyUI numbers results by what lies in the directory (``ComfyUI_00001_.png``), so an instance whose
directory was emptied gives the same names again, to results of other prompts. A client that was
told a name before must not get another client's picture under it. So after an instance was away
some of the files that it is known to have made are looked for. If none is left its results get
another mark from then on (``@2.1``, then ``@2.2``), and the old mark leads to no instance.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.files.client import look
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.makers import Made, Makers
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.observers import tell

SAMPLES: Final = 8
"""Files that are looked for, the ones that were made last. More than one, because people delete
single results too."""
_KIND: Final = "output"  # what is in `temp` goes at each start, and has names that are random
_MARK: Final = re.compile(r"(?P<id>\d+)(?:\.(?P<disk>\d{1,9}))?")


class Disks:
    """Finds instances by marks; ``on_new`` callbacks hear of each instance that got another
    mark."""

    def __init__(self, cluster: Cluster, makers: Makers, storage: SharedStorage) -> None:
        self._cluster = cluster
        self._storage = storage
        self._made = ByInstance[deque[FileName]](lambda instance: deque(maxlen=SAMPLES))
        makers.on_made.append(self._note)
        self._unsure: WeakSet[Instance] = WeakSet()
        self._looks = InstanceTasks(cluster.instances, self._look, "disk of")
        # Marks and files of instances that have left, by their numbers: one that comes back may
        # have another disk by then.
        self._former: dict[str, tuple[str, list[FileName]]] = {}
        cluster.instances.each(self._joined)
        cluster.instances.on_removed.append(self._left)
        self.on_new: list[Callable[[Instance], None]] = []

    def __repr__(self) -> str:
        return f"<Disks of {', '.join(one.mark for one in self._cluster.instances)}>"

    def __contains__(self, mark: object) -> bool:
        return isinstance(mark, str) and self.of(mark) is not None

    def of(self, mark: str) -> Instance | None:
        """The instance whose results have ``mark`` now; None if it is the mark of an older disk.

        A mark with a higher number than is known leads to the instance as well: a proxy before this
        one gave it, and had no STATE_FILE to write it down.
        """
        found = _MARK.fullmatch(mark)
        if found is None:
            return None
        instance = self._cluster.instances.by_id.get(found["id"])
        is_older = instance is not None and _number(mark) < _number(instance.mark)
        return None if is_older else instance

    def interrupted(self, instance: Instance) -> None:
        """For ``instance.on_interruption``: ``instance`` may come back with an empty disk."""
        if not self._storage.is_common(_KIND):
            self._unsure.add(instance)

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: look for the files before anything is sent there.
        ComfyUI answers in the order in which it is asked, so the mark is known before a prompt can
        end."""
        if instance in self._unsure:
            self._looks.begin(instance)

    def _joined(self, instance: Instance) -> None:
        instance.mark, files = self._former.pop(instance.id, (instance.mark, []))
        if files:
            self._made[instance].extend(files)
            self.interrupted(instance)

    def _left(self, instance: Instance) -> None:
        self._former[instance.id] = instance.mark, list(self._made[instance])

    def _note(self, made: Made) -> None:
        """Remember the last files of each instance here: of a name that several instances have made
        ``Makers`` knows only the last maker."""
        latest = self._made[made.at]
        if made.is_sure and made.file.type == _KIND and made.file not in latest:
            latest.append(made.file)

    async def close(self) -> None:
        """End what is under way."""
        await self._looks.close()

    async def _look(self, instance: Instance) -> None:
        self._unsure.discard(instance)
        asked = [look(instance, self._cluster, file) for file in self._made[instance]]
        try:
            looks = await asyncio.gather(*asked)
        except InstanceError as error:
            logger.debug("{} does not tell whether its files are there: {}", instance.host, error)
            self._unsure.add(instance)
            return
        if looks and all(found.status == 404 for found in looks):
            instance.mark = f"{instance.id}.{_number(instance.mark) + 1}"
            logger.bind(instance=instance.host).warning(
                "instance {} has lost the results it had made: they are 404 from now on, and new"
                " ones are named @{}",
                instance.host,
                instance.mark,
            )
            self._made[instance].clear()
            tell(self.on_new, instance)


def _number(mark: str) -> int:
    return int(mark.partition(".")[2] or 0)
