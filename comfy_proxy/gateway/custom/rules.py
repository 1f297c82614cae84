"""Whom a request of an unknown route concerns: rules in their order, the first that fits decides.

1. a row of the user's (``ROUTES_FILE``), or one of ours for a well-known pack;
2. it names a result, a prompt or a client: whoever has it;
3. it answers what a node has asked its client: the instance of that node;
4. whoever runs a prompt of this client;
5. PUT: all;
6. GET and HEAD: the primary, and what it does not have, the first of the others that has it;
7. all else: the primary alone. Told to all it would wake another user's node, delete a file of the
   same name elsewhere, download or train twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from aiohttp import hdrs, web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import RequestError
from comfy_proxy.gateway.custom.askers import Askers
from comfy_proxy.gateway.custom.asking_nodes import AskingNodes
from comfy_proxy.gateway.custom.question import Question
from comfy_proxy.gateway.custom.rows import Rows, To
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.told_files import told_files
from comfy_proxy.ledger.ledger import Ledger

_CLIENT_FIELDS = ("clientId", "client_id", "sid")
_MIN_ID = 8
"""Characters of a word that may be the id of a prompt or a client: they are UUIDs mostly, and a
short word may be anything."""


class How(Enum):
    """In what way ``Addressed.instances`` are asked."""

    PRIMARY = auto()
    """The first healthy one, or by the retry law the next one; ``instances`` are none."""
    ONE = auto()
    """This one, and nobody in its place."""
    ALL = auto()
    """All of them."""
    FIRST_FOUND = auto()
    """One after the other until one has it."""
    RESTART = auto()
    """This one, once it has nothing left to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Addressed:
    """Who answers, and by which ``rule``. ``target`` and ``raw`` are sent instead of the client's
    path with query, and body, if they are not None."""

    how: How
    rule: str
    instances: Sequence[Instance] = ()
    target: str | None = None
    raw: bytes | None = None

    def __str__(self) -> str:
        hosts = ", ".join(one.host for one in self.instances) or "the primary"
        return f"{hosts}: {self.rule}"


class AmbiguousRequestError(RequestError):
    """Several instances could be meant, and each would do something else."""

    status = 409
    code = "ambiguous_request"


class Clients(Protocol):
    """The clients that have a socket here."""

    def listens(self, client_id: str) -> bool:
        """Whether a client of that id has one."""

    def only_like(self, request: web.Request) -> str | None:
        """The id of the client with the address and the User-Agent of ``request``; None if none or
        several have one."""

    async def attend(self, client_id: str | None, instances: Iterable[Instance]) -> None:
        """Have the client hear on sockets of its own what ``instances`` tell it."""


class Rules:
    """The rules over one cluster; ``rows`` are the user's and ours. Asks nobody."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        files: FileHolders,
        *,
        rows: Rows,
        askers: Askers,
        asking: AskingNodes,
        clients: Clients,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._files = files
        self.marks = files.disks
        self.rows = rows
        self._askers = askers
        self._asking = asking
        self._clients = clients
        self.order: Sequence[Callable[[Question], Addressed | None]] = (
            self.by_row,
            self.by_mark,
            self.by_file,
            self.by_prompt,
            self.by_client_id,
            self.by_asker,
            self.by_running_prompt,
            self.put_to_all,
            self.read_anywhere,
        )

    def decide(self, question: Question) -> Addressed:
        """Who answers. Raises AmbiguousRequestError (409) if two instances could be meant."""
        for rule in self.order:
            found = rule(question)
            if found is not None:
                return found
        return Addressed(how=How.PRIMARY, rule="nothing tells whom it concerns")

    async def listen(self, question: Question, addressed: Addressed) -> None:
        """Have the client hear who is asked first: a node's route may answer it on its socket."""
        asked: Sequence[Instance] = [one for one in self._cluster.instances if one.healthy][:1]
        if addressed.how in (How.ONE, How.ALL):
            asked = addressed.instances
        elif addressed.how is How.FIRST_FOUND:
            asked = [one for one in addressed.instances if one.healthy][:1]
        await self._clients.attend(self.client_of(question), asked)

    # --- 1 -----------------------------------------------------------------------------------

    def by_row(self, question: Question) -> Addressed | None:
        """What a row says; ``by_file`` and ``by_prompt`` only if one is named, else the primary."""
        row = self.rows.find(question.method, question.path)
        if row is None:
            return None
        rule = f"row {row.path} ({row.to}{': ' if row.why else ''}{row.why})"
        match row.to:
            case To.BROADCAST:
                return Addressed(how=How.ALL, rule=rule, instances=self._cluster.instances)
            case To.BALANCED:
                return self._balanced(rule)
            case To.RESTART:
                return Addressed(how=How.RESTART, rule=rule)
            case To.BY_FILE:
                found = self.by_mark(question) or self.by_file(question)
                return found or self._anywhere(question, rule)
            case To.BY_PROMPT:
                return self.by_prompt(question) or self._anywhere(question, rule)
        return Addressed(how=How.PRIMARY, rule=rule)

    def _balanced(self, rule: str) -> Addressed:
        healthy = [one for one in self._cluster.instances if one.healthy]
        if not healthy:
            return Addressed(how=How.PRIMARY, rule=rule)
        in_order = sorted(healthy, key=lambda one: one.load)
        return Addressed(how=How.ONE, rule=rule, instances=in_order[:1])

    def _anywhere(self, question: Question, rule: str) -> Addressed:
        return self.read_anywhere(question) or Addressed(how=How.PRIMARY, rule=rule)

    # --- 2 -----------------------------------------------------------------------------------

    def by_mark(self, question: Question) -> Addressed | None:
        """A name that we gave comes back: to its instance, by the name that it has there."""
        sent = question.unmarked
        owners = [owner for one in sorted(sent.owners) if (owner := self.marks.of(one)) is not None]
        if not owners:
            return None
        owner = _only(owners, "The request names results of several ComfyUI instances")
        return Addressed(
            how=How.ONE,
            rule="a result's name",
            instances=[owner],
            target=sent.target,
            raw=sent.raw,
        )

    def by_file(self, question: Question) -> Addressed | None:
        """It names a file that one instance has told it made, by its name or its path there."""
        if not question.fields:
            return None
        named: dict[str, str] = {}
        for name, value in question.fields:
            named.setdefault(name, value)
        makers = {
            maker
            for file in told_files(named)
            if self._files.makers.is_sure(file) and (maker := self._files.makers.of(file))
        }
        if len(makers) != 1:
            return None
        return Addressed(how=How.ONE, rule="a file's name", instances=list(makers))

    def by_prompt(self, question: Question) -> Addressed | None:
        """It names a prompt: who has it, or had it."""
        for word in question.words:
            if len(word) >= _MIN_ID and (owner := self._ledger.owner(word)) is not None:
                return Addressed(how=How.ONE, rule="a prompt's id", instances=[owner])
        return None

    def by_client_id(self, question: Question) -> Addressed | None:
        """It names a client whose prompt runs at one instance."""
        named = question.field(*_CLIENT_FIELDS)
        runners = [] if named is None else self._runners(named)
        if len(runners) != 1:
            return None
        return Addressed(how=How.ONE, rule="a clientId", instances=runners)

    # --- 3 and 4 -----------------------------------------------------------------------------

    def by_asker(self, question: Question) -> Addressed | None:
        """It answers a frame of a node that waits. Raises AmbiguousRequestError."""
        if not self._askers.wait:
            return None
        fitting = self._askers.fitting(question.telling, self.client_of(question))
        if not fitting:
            return None
        self._asking.answered(fitting, question.telling)
        asker = _only(fitting, "Nodes on several ComfyUI instances wait for this answer")
        return Addressed(how=How.ONE, rule="a reply to a node", instances=[asker])

    def by_running_prompt(self, question: Question) -> Addressed | None:
        """Who runs a prompt of this client; nobody if two do."""
        if question.method in (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_PUT):
            return None  # whoever reads, or tells all, need not be at one
        client_id = self.client_of(question)
        runners = [] if client_id is None else self._runners(client_id)
        if len(runners) != 1:
            return None
        return Addressed(how=How.ONE, rule="a prompt of this client runs", instances=runners)

    def client_of(self, question: Question) -> str | None:
        """By what it names, else by its address and User-Agent."""
        if (named := question.field(*_CLIENT_FIELDS)) is not None:
            return named
        for word in question.words:
            if len(word) >= _MIN_ID and self._clients.listens(word):
                return word
        return self._clients.only_like(question.request)

    def _runners(self, client_id: str) -> list[Instance]:
        running = ((one, self._ledger.running(one)) for one in self._cluster.instances)
        return [one for one, prompt in running if prompt and prompt.client_id == client_id]

    # --- 5 and 6 -----------------------------------------------------------------------------

    def put_to_all(self, question: Question) -> Addressed | None:
        """A PUT may be done anywhere and any number of times (RFC 9110 9.2.2)."""
        if question.method != hdrs.METH_PUT:
            return None
        return Addressed(how=How.ALL, rule="a PUT", instances=self._cluster.instances)

    def read_anywhere(self, question: Question) -> Addressed | None:
        """Who reads asks whoever runs a prompt of the client that it names, then the primary; one
        with a body goes to the primary alone."""
        if question.method not in (hdrs.METH_GET, hdrs.METH_HEAD) or question.body is not None:
            return None
        named = question.field(*_CLIENT_FIELDS)
        first = [] if named is None else self._runners(named)
        order = [*first, *(one for one in self._cluster.instances if one not in first)]
        return Addressed(how=How.FIRST_FOUND, rule="a read", instances=order)


def _only(instances: Sequence[Instance], what: str) -> Instance:
    if len(instances) == 1:
        return instances[0]
    names = " and ".join(one.id for one in instances)
    raise AmbiguousRequestError(
        f"{what} ({names}), and nothing tells which one is meant.",
        details={"instances": [one.id for one in instances]},
    )
