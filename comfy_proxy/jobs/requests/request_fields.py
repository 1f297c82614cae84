"""Parameters and options of a request, as they come: in the query or in the body."""

from __future__ import annotations

from typing import Any, Final

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.workflows.parameter import (
    MAX_TEXT_LENGTH,
    MAX_VALUE_LENGTH,
    TRUTHS,
    Scalar,
    unknown_parameter,
)
from comfy_proxy.jobs.workflows.workflow import Workflow

WEBHOOK_URL: Final = "webhook_url"
"""The option that says where a job's end is told (``webhooks/``)."""
OPTIONS: Final = frozenset(("async", "mode", "token", WEBHOOK_URL))
"""Keys of the query or the body that tell how to answer; workflows have no such parameters."""


class RequestFields:
    """Parameters (``values``) and options of the query, or of the body; each at most once."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self._known = workflow.parameters
        self.values: dict[str, Scalar] = {}
        self.options: dict[str, str] = {}

    def check(self, name: str) -> None:
        """Raises InvalidFieldError if ``name`` is unknown or was there before."""
        if name not in self._known and name not in OPTIONS:
            raise unknown_parameter(name, self._known)
        if name in self.values or name in self.options:
            message = f"{name} is given more than once."
            raise InvalidFieldError(name, message, code="duplicate_parameter")

    def limit(self, name: str) -> int:
        """Characters that the value of ``name`` may have."""
        parameter = self._known.get(name)
        return MAX_VALUE_LENGTH if parameter is None else parameter.max_length

    def value_of(self, name: str) -> Scalar | None:
        """What was taken for ``name``, as its type; None if it was not given. Raises
        InvalidFieldError."""
        if name in self.values:
            return self._known[name].parse(self.values[name])
        given = self.options.get(name)
        return TRUTHS.get(given or "", given) if name == "async" else given

    def add(self, name: str, value: Any) -> None:
        """Take a client's value; raises InvalidFieldError unless it is a text, number or truth."""
        self.check(name)
        if not isinstance(value, str | int | float):
            raise InvalidFieldError(name, f"{name} must be a text, a number, true or false.")
        if isinstance(value, str) and len(value) > self.limit(name):
            raise InvalidFieldError(name, f"{name} is longer than {self.limit(name)} characters.")
        if name in OPTIONS:
            is_a_word = name in ("async", "mode")
            self.options[name] = str(value).strip().lower() if is_a_word else str(value)
        else:
            self.values[name] = value


def joined(query: RequestFields, body: RequestFields) -> RequestFields:
    """What both say. Raises InvalidFieldError ``duplicate_parameter`` for a field that has another
    value in the one than in the other: which is meant is not guessed."""
    for name in {**query.values, **query.options}:
        given = query.value_of(name), body.value_of(name)
        if None not in given and given[0] != given[1]:
            message = f"{name} has one value in the query and another one in the body."
            raise InvalidFieldError(name, message, code="duplicate_parameter")
    both = RequestFields(query.workflow)
    both.values = {**query.values, **body.values}
    both.options = {**query.options, **body.options}
    return both


MAX_FIELDS_BYTES: Final = 16 * MAX_TEXT_LENGTH
"""Bytes of all fields of a request that are no files, names included; beyond, 413."""
