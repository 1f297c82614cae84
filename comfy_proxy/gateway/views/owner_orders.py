"""Orders that name prompts: each goes to the instance that has the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.exchange.fanout import Answer, ask_each, nobody_answers
from comfy_proxy.gateway.views.owner import PromptOwners
from comfy_proxy.ledger.ledger import Ledger


class OwnerOrders:
    """Tells instances what clients order of their prompts."""

    def __init__(self, cluster: Cluster, ledger: Ledger, owners: PromptOwners) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._owners = owners

    async def tell(
        self, path: str, key: str, data: Mapping[str, Any], ids: Iterable[str]
    ) -> tuple[dict[Instance, Answer], NoHealthyInstanceError | None]:
        """What each instance said; no answers, and the error, if nobody answers who is to know.

        ``path`` is asked with ``data``, and the ids that concern the instance under ``key``."""
        try:
            return await self._answers(path, key, data, ids), None
        except NoHealthyInstanceError as error:
            return {}, error

    async def _answers(
        self, path: str, key: str, data: Mapping[str, Any], ids: Iterable[str]
    ) -> dict[Instance, Answer]:
        """``data`` to each instance with only its own ids under ``key``; unknown ids to all.

        With ``clear`` each instance hears of it. Those that fail are left out; if all do, the
        others are told as far as they are found again. Raises NoHealthyInstanceError.
        """
        left, ids = list(self._cluster.instances), list(ids)
        owners = {
            one: None if self._ledger.transit.find(one) else await self._owners.known(one)
            for one in dict.fromkeys(ids)
        }
        while told := await self._cluster.healthy(left):
            theirs: dict[Instance, list[str]] = {instance: [] for instance in told}
            for prompt_id in ids:  # one that is named twice is told twice, as it came
                owner = owners[prompt_id]
                for instance in [owner] if owner in theirs else told:
                    theirs[instance].append(prompt_id)
            bodies = {
                one: {"json": {**data, key: own}}
                for one, own in theirs.items()
                if own or data.get("clear")
            }
            if answers := await ask_each(self._cluster, "POST", path, bodies):
                return answers
            left = [one for one in left if one not in told]
        raise nobody_answers()
