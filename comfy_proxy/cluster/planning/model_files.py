"""How large the instances' model files are, and which share each has in the time to load several.

An instance is asked in the background, only when somebody needs a size that is not known, and not
again for ``REFRESH_S``: a model is as large tomorrow, and what cannot be learnt is guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.shared_tasks import SharedTasks
from comfy_proxy.cluster.planning.model_lists import (
    LISTED_EXTENSIONS,
    ModelFile,
    model_files,
    uniform,
)
from comfy_proxy.cluster.roster import ByInstance

REFRESH_S = 900.0
"""Seconds. An instance is not asked again sooner, whatever it said."""
PRIORS: Mapping[str, float] = {"lora": 0.05, "vae": 0.1}
"""Part of a folder's or file's name → what such a model takes to load where sizes are not known,
as a share of any other model."""


class ModelFiles:
    """The sizes that are known, by instance. Whoever makes it closes it; ``forget`` is a hook.

    A model is named as a graph names it, its subfolder with ``/`` or ``\\`` included.
    """

    def __init__(self, clients: Mapping[Instance, ComfyUIClient], *, clock: Clock) -> None:
        self._clients = clients
        self._clock = clock
        self._tasks = SharedTasks("asking for model files")
        self._known = ByInstance[Mapping[str, ModelFile]]()
        self._asked = ByInstance[float]()

    def __repr__(self) -> str:
        counts = ", ".join(f"{one.host}: {len(files)}" for one, files in self._known.items())
        return f"<ModelFiles {counts or 'empty'}>"

    # --- known now, asks nobody --------------------------------------------------------

    def size(self, instance: Instance, model: str) -> int | None:
        """The bytes of ``model`` at ``instance``; None: not known."""
        found = self._file(instance, model)
        return None if found is None else found.size

    def folder_of(self, instance: Instance, model: str) -> str | None:
        """The folder of ``model`` by ComfyUI's name (``checkpoints``, ``loras``); None: not known.

        Of several files of one name the first one that the instance lists.
        """
        found = self._file(instance, model)
        return None if found is None else found.folder

    def share(self, instance: Instance, models: Collection[str]) -> dict[str, float]:
        """Model → its part of the time that loading all of ``models`` takes; together 1.

        By bytes if all sizes are known, else by PRIORS: half of the sizes would say less.
        """
        sizes = [self.size(instance, model) for model in models]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes) or not any(known):
            weights = [self._prior(instance, model) for model in models]
        else:
            weights = [float(size) for size in known]
        shares = dict(zip(models, weights, strict=True))
        total = sum(shares.values())
        return {model: weight / total for model, weight in shares.items()}

    # --- learn -------------------------------------------------------------------------

    def wanted(self, instance: Instance, models: Collection[str]) -> None:
        """Somebody needs the sizes of ``models`` there: learn in the background what is missing.

        Returns at once. Asks nobody if the instance is not healthy, was asked less than REFRESH_S
        ago, or lists no files of that sort.
        """
        last = self._asked.get(instance)
        if last is not None and self._clock.monotonic() - last < REFRESH_S:
            return
        missing = any(_is_listed(model) and self._file(instance, model) is None for model in models)
        if missing and instance.healthy and instance in self._clients:
            self._asked[instance] = self._clock.monotonic()
            client = self._clients[instance]
            self._tasks.join(instance, lambda: model_files(client), partial(self._keep, instance))

    def forget(self, instance: Instance) -> None:
        """For ``instance.on_interruption``: what comes back may have other files.

        An answer that is under way is not kept.
        """
        self._known.pop(instance, None)
        self._asked.pop(instance, None)
        self._tasks.forget(instance)

    async def close(self) -> None:
        """End what still asks."""
        await self._tasks.close()

    def _keep(self, instance: Instance, files: Mapping[str, ModelFile]) -> None:
        """An answer that broke off takes nothing away that was known."""
        self._known[instance] = {**self._known.get(instance, {}), **files}

    def _file(self, instance: Instance, model: str) -> ModelFile | None:
        return self._known.get(instance, {}).get(uniform(model))

    def _prior(self, instance: Instance, model: str) -> float:
        text = f"{self.folder_of(instance, model) or ''}/{model}".lower()
        return next((weight for part, weight in PRIORS.items() if part in text), 1.0)


def _is_listed(model: str) -> bool:
    return model.strip().lower().endswith(LISTED_EXTENSIONS)
