"""All workflows by name: those that are shipped, and those of WORKFLOW_DIRECTORY."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from comfy_proxy.errors import NotFoundError
from comfy_proxy.jobs.workflows.problem import Problem
from comfy_proxy.jobs.workflows.workflow import Workflow
from comfy_proxy.observers import tell_all


class WorkflowRegistry:
    """What can be run; ``problems`` are those of files that are no workflows.

    ``on_changed`` callbacks hear that other workflows are there now.
    """

    def __init__(self, workflows: Mapping[str, Workflow], problems: Sequence[Problem] = ()) -> None:
        self._workflows = dict(workflows)
        self.problems = tuple(problems)
        self.on_changed: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[Workflow]:
        return iter(tuple(self._workflows.values()))

    def get(self, name: str) -> Workflow:
        """The workflow of that name; raises NotFoundError ``unknown_workflow``."""
        try:
            return self._workflows[name]
        except KeyError:
            message = f"There is no workflow of that name; there are {', '.join(self.names())}."
            raise NotFoundError(message, code="unknown_workflow") from None

    def names(self) -> tuple[str, ...]:
        """All names, the shipped ones first."""
        return tuple(self._workflows)

    def replace(self, workflows: Mapping[str, Workflow], problems: Sequence[Problem]) -> None:
        """These are there from now on. Jobs that were accepted keep the workflow that they have."""
        self._workflows, self.problems = dict(workflows), tuple(problems)
        tell_all(self.on_changed, "other workflows")

    def required_classes(self) -> frozenset[str]:
        """Every node class that any workflow could use."""
        return frozenset[str]().union(*(w.required_classes() for w in self._workflows.values()))
