"""Makes instances: those of the configuration, and those that join later.

Each has a number that no other instance has had in this process: the one that its URL had before,
else its place in the configuration, else one more than the highest number that was ever given.
"""

from __future__ import annotations

from collections.abc import Mapping

from yarl import URL

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.instance_settings import canonical
from comfy_proxy.settings import Settings


class Newcomers:
    """``ids`` are the numbers that instances have had, by their URLs, those of former instances
    too."""

    def __init__(self, settings: Settings, clock: Clock, ids: Mapping[URL, str]) -> None:
        self._settings = settings
        self._clock = clock
        self._ids = {canonical(url): number for url, number in ids.items()}

    def configured(self) -> tuple[Instance, ...]:
        """The instances of the configuration, in its order."""
        for number, url in enumerate(self._settings.instances, start=1):
            self._ids.setdefault(canonical(url), str(number))
        return tuple(
            self.make(url, self._settings.name_of(place))
            for place, url in enumerate(self._settings.instances)
        )

    def make(self, url: URL, name: str | None) -> Instance:
        """The instance at ``url``; it is no member of the roster yet."""
        highest = max(map(int, self._ids.values()), default=0)
        return Instance(
            id=self._ids.setdefault(canonical(url), str(highest + 1)),
            url=url,
            clock=self._clock,
            name=name,
            capacity=self._settings.max_connections_per_instance,
            failure_threshold=self._settings.health_failure_threshold,
        )
