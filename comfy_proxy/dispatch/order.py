"""What the dispatcher asks of whoever wants a prompt to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.ledger.prompt import Prompt

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt(Generic[T_co]):
    """What an instance said to a prompt: ``answer``, in the form that its sender wants.

    ``prompt_id`` and ``number`` are those that it gave the prompt; ``prompt_id`` is None if it has
    refused it, ``number`` if it does not tell.
    """

    answer: T_co
    prompt_id: str | None = None
    number: float | None = None


class Order(Protocol[T_co]):
    """A prompt that is to run, and how it is sent.

    ``unsure`` are the errors after which it may have been taken: then the instance is asked
    (``cluster/submit_once.py``).
    """

    @property
    def prompt(self) -> Prompt:
        """Its record."""
        ...

    @property
    def unsure(self) -> type[InstanceError]:
        """See the class."""
        ...

    async def post(self, instance: Instance, number: float | None) -> Receipt[T_co]:
        """One ``POST /prompt``; ``number`` is its place in the queue, None if the instance chooses.

        Raises InstanceError, JobError.
        """
        ...

    async def find(self, instance: Instance) -> Receipt[T_co] | None:
        """As if ``instance`` had just taken it, if it has; None if it has not.

        Raises InstanceError if it does not say.
        """
        ...


class Preparation(Protocol):
    """What must be at an instance before a prompt is sent there."""

    async def stage(self, prompt: Prompt, instance: Instance) -> bool:
        """Bring the files that it names; False if it must not run there."""
        ...

    async def ready(self, prompt: Prompt, instance: Instance) -> bool:
        """Wait for its client's socket there, so that no event is missed; False if it cannot be
        there now."""
        ...
