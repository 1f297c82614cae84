"""The users of several instances as one list (``--multi-user``): same name, same user.

Each instance mints ids of its own (``POST /users`` → ``name_<uuid>``) and nothing in its API takes
one that was minted elsewhere. Names however are unique on an instance. So clients know a name by
the id that they got for it first, and ``comfy-user`` is translated for every instance that has
another id for that name. Ids are learnt from ``GET /users`` and kept in memory: after a restart of
the proxy, an id of an instance that is down is not known until it returns.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.lenient_json import dumps_exact, loads_exact

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster


class UserIds:
    """Id → name of each instance, as last heard; and the id of each name that clients see."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._names = ByInstance[dict[str, str]]()
        self._public: dict[str, str] = {}
        self._outdated: WeakSet[Instance] = WeakSet()
        cluster.instances.each(self._outdated.add)

    def __repr__(self) -> str:
        return f"<UserIds {len(self._public)} names>"

    def forget(self, instance: Instance) -> None:
        """``instance`` is to be asked again; what is known serves until it has answered."""
        self._outdated.add(instance)

    async def learn(self) -> None:
        """Ask those that are due; each counts as soon as it has answered."""
        due = [i for i in self._cluster.instances if i in self._outdated and i.healthy]
        await asyncio.gather(*map(self.ask_again, due))

    async def ask_again(self, instance: Instance) -> None:
        """Ask ``instance`` now; if it does not answer, when it is next needed."""
        self._outdated.add(instance)
        try:
            answer: Any = (await self._asked(instance)).json()
        except InstanceError as error:
            logger.debug("the users of {} are not known: {}", instance.host, error.message)
            return
        # One that is for a single user tells of none.
        users = answer.get("users", {}) if isinstance(answer, dict) else None
        if isinstance(users, dict):
            self._names[instance] = {
                key: name for key, name in users.items() if isinstance(name, str)
            }
            self._outdated.discard(instance)

    async def _asked(self, instance: Instance) -> Answer:
        return await ask(instance, self._cluster, "GET", "/users", replaceable=True)

    async def minted_at(self, instance: Instance) -> None:
        """``instance`` has a new user: the id that it gave is the one for clients."""
        known = self._names.get(instance, {})
        await self.ask_again(instance)
        for user_id, name in self._names.get(instance, {}).items():
            if user_id not in known:
                self._public.setdefault(name, user_id)

    def at(self, instance: Instance, user_id: str) -> str:
        """What ``instance`` calls the user; ``user_id`` itself if nobody knows better."""
        own = self._names.get(instance, {})
        if user_id in own:
            return user_id
        names = (names[user_id] for names in self._names.values() if user_id in names)
        name = next(names, None)
        return next((one for one, theirs in own.items() if theirs == name), user_id)

    def renames(self, instance: Instance) -> bool:
        """True if clients know one of its users by another id."""
        own = self._names.get(instance, {})
        return any(self._public_id(name, user_id) != user_id for user_id, name in own.items())

    def public(self, body: bytes) -> bytes:
        """An answer to ``GET /users`` with the ids that clients know; others as they came."""
        try:
            answer = loads_exact(body)
            users = {self._public_id(n, one): n for one, n in answer["users"].items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            return body
        return dumps_exact({**answer, "users": users})

    def _public_id(self, name: Any, user_id: str) -> str:
        """The id of ``name`` that clients got first, or the one of the first instance."""
        if not isinstance(name, str):
            return user_id
        if name in self._public:
            return self._public[name]
        for instance in self._cluster.instances:
            for one, theirs in self._names.get(instance, {}).items():
                if theirs == name:
                    return one
        return user_id
