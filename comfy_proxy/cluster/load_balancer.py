"""Which instance is next: the healthy one with the fewest prompts, equals in turn.

The counts are read live at each choice. All that is kept is whose turn it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance, Roster
from comfy_proxy.errors import NoHealthyInstanceError


class LoadBalancer:
    """Chooses among ``instances``, which are in the order of the configuration."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances = Roster.of(instances)
        self._index = ByInstance[int](lambda instance: 0)
        self._turn = 0
        self.instances.each(self._count)
        self.instances.on_removed.append(self._count)

    def _count(self, _changed: Instance) -> None:
        """Who is the how manieth."""
        for index, instance in enumerate(self.instances):
            self._index[instance] = index

    def __repr__(self) -> str:
        return f"<LoadBalancer {list(self.instances)}>"

    def get_available_instance(
        self,
        *,
        exclude: Collection[Instance] = (),
        accepts: Callable[[Instance], bool] = lambda instance: True,
    ) -> Instance:
        """The healthy instance with the fewest prompts, of those that ``accepts`` lets pass.

        Counted are prompts of our jobs, forwarded ones and those that others put there
        (``Instance.load``). Equally loaded instances take turns. ``exclude`` are passed over.
        Raises NoHealthyInstanceError when none is left.
        """
        candidates = [
            instance
            for instance in self.instances
            if instance.healthy and instance not in exclude and accepts(instance)
        ]
        if not candidates:
            raise self._nobody(exclude)
        chosen = min(candidates, key=self.rank)
        self.took(chosen)
        return chosen

    def rank(self, instance: Instance) -> tuple[int, int]:
        """The lower the sooner it is chosen: its prompts, and of equals whose turn it is."""
        index = self._index[instance]
        return instance.load, (index - self._turn) % len(self._index)

    def took(self, instance: Instance) -> None:
        """``instance`` was chosen: among equals it is the others' turn."""
        self._turn = (self._index[instance] + 1) % len(self._index)

    def primary(self, exclude: Collection[Instance] = ()) -> Instance:
        """The first healthy instance of the configuration, for whatever needs no choice by load.

        Always the first: requests that belong together (settings, a custom node's routes) must meet
        the same instance for as long as it is healthy. One that is drained is the last choice: it
        is about to be restarted.

        Raises NoHealthyInstanceError when none is left.
        """
        drained = None
        for instance in self.instances:  # nearly always the first one is it
            if not instance.healthy or instance in exclude:
                continue
            if not instance.drained:
                return instance
            drained = drained or instance
        if drained is not None:
            return drained
        raise self._nobody(exclude)

    def _nobody(self, exclude: Collection[Instance]) -> NoHealthyInstanceError:
        states = {
            instance.host: "passed over" if instance in exclude else str(instance.breaker.state)
            for instance in self.instances
        }
        return NoHealthyInstanceError(
            "No ComfyUI instance can take this now.",
            details={"instances": states},
            retry_after_s=5,
        )
