"""Which instance is next (story 1.1): a stateless rule over live counts, and a turn for ties."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import NoHealthyInstanceError


class LoadBalancer:
    """Least loaded first, ties in turn."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.instances = tuple(instances)
        self._turn = 0

    def __repr__(self) -> str:
        return f"<LoadBalancer {list(self.instances)}>"

    def get_available_instance(
        self,
        *,
        exclude: Collection[Instance] = (),
        accepts: Callable[[Instance], bool] = lambda instance: True,
    ) -> Instance:
        """The healthy instance with the fewest jobs, of those that ``accepts`` lets pass.

        Jobs are ours, forwarded prompts and what others put there. Equally loaded ones take
        turns. Raises NoHealthyInstanceError when none is left.
        """
        count = len(self.instances)
        candidates = [
            (instance.load, (index - self._turn) % count, index)
            for index, instance in enumerate(self.instances)
            if instance.healthy and instance not in exclude and accepts(instance)
        ]
        if not candidates:
            raise self._nobody(exclude)
        index = min(candidates)[2]
        self._turn = (index + 1) % count
        return self.instances[index]

    def primary(self, exclude: Collection[Instance] = ()) -> Instance:
        """The first healthy instance, so that what belongs together meets the same one.

        Raises NoHealthyInstanceError when none is left.
        """
        for instance in self.instances:
            if instance.healthy and instance not in exclude:
                return instance
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
