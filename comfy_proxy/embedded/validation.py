"""Decides whether a graph may be queued, with ComfyUI's native error bodies.

Source: `validate_prompt` and `validate_inputs` of 0.3.75, and `rejected-and-reads` of the
recordings. Values are coerced in place: `"seconds": 5` of a FLOAT is queued as 5.0 (measured).
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.nodes.node_class import Json, NodeClass

CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}
LONGEST_ENUM_SHOWN = 20  # choices; of a longer list the error tells the length only


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`error` is None if at least one output can run; `outputs` are those that can.

    `node_errors` may have entries even then (PROTOCOL.md trap 25).
    """

    error: Json | None = None
    outputs: list[str] = field(default_factory=list)
    node_errors: Json = field(default_factory=dict)


class _Refused(Exception):  # noqa: N818 (carries an error body, is no error itself)
    """One input is wrong; the arguments are the error's type, message, details and extras."""

    def __init__(self, kind: str, message: str, details: str, **extra_info: object) -> None:
        super().__init__(message)
        self.body = error_body(kind, message, details, extra_info)


def error_body(kind: str, message: str, details: str, extra_info: Json | None = None) -> Json:
    """An error as it stands in 400 answers."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info or {}}


NO_PROMPT = error_body("no_prompt", "No prompt provided", "No prompt provided")


def validate_prompt(
    graph: Json,
    classes: Mapping[str, NodeClass],
    folders: Folders,
    targets: list[str] | None = None,
) -> Verdict:
    """Check a graph (and coerce its values in place). `targets` limits the outputs to run."""
    for node_id, node in graph.items():
        if problem := _class_problem(node, classes):
            return Verdict(error=error_body("invalid_prompt", problem, f"Node ID '#{node_id}'"))
    outputs = [
        node_id
        for node_id, node in graph.items()
        if classes[node["class_type"]].is_output and (targets is None or node_id in targets)
    ]
    if not outputs:
        return Verdict(error=error_body("prompt_no_outputs", "Prompt has no outputs", ""))
    return _GraphValidation(graph, classes, folders).verdict(outputs)


def _class_problem(node: Json, classes: Mapping[str, NodeClass]) -> str | None:
    if "class_type" not in node:
        return "Cannot execute because a node is missing the class_type property."
    if node["class_type"] not in classes:
        return f"Cannot execute because node {node['class_type']} does not exist."
    return None


class _GraphValidation:
    """One walk over a graph; remembers each node's errors.

    A node can be invalid without errors of its own: then an ancestor has them.
    """

    def __init__(self, graph: Json, classes: Mapping[str, NodeClass], folders: Folders) -> None:
        self._graph = graph
        self._classes = classes
        self._folders = folders
        self._errors: dict[str, list[Json]] = {}
        self._valid: dict[str, bool] = {}

    def verdict(self, outputs: list[str]) -> Verdict:
        good: list[str] = []
        node_errors: Json = {}
        reasons: list[str] = []
        for output in outputs:
            if self._validate_output(output):
                good.append(output)
                continue
            reasons += [f"{e['message']}: {e['details']}" for e in self._errors[output]]
            self._blame(output, node_errors)
        if good:
            return Verdict(outputs=good, node_errors=node_errors)
        message = "Prompt outputs failed validation"
        error = error_body("prompt_outputs_failed_validation", message, "\n".join(reasons))
        return Verdict(error=error, node_errors=node_errors)

    def _validate_output(self, output: str) -> bool:
        try:
            return self._validate(output)
        except Exception as error:
            self._fail(output, _exception_body("exception_during_validation", error))
            return False

    def _blame(self, output: str, node_errors: Json) -> None:
        """Report every faulty node found so far with this output, as the real server does.

        So a node may be reported with an output that does not depend on it.
        """
        for node_id, errors in self._errors.items():
            if errors:
                report = node_errors.setdefault(
                    node_id,
                    {
                        "errors": errors,
                        "dependent_outputs": [],
                        "class_type": self._graph[node_id]["class_type"],
                    },
                )
                report["dependent_outputs"].append(output)

    def _validate(self, node_id: str) -> bool:
        if node_id in self._valid:
            return self._valid[node_id]
        inputs = self._graph[node_id]["inputs"]
        node_class = self._classes[self._graph[node_id]["class_type"]]
        errors: list[Json] = []
        ancestors_valid = True
        for category in ("required", "optional"):
            for name, declared in node_class.inputs(self._folders, category).items():
                try:
                    ancestors_valid &= self._check_input(
                        node_class, inputs, name, declared, category == "required"
                    )
                except _Refused as refusal:
                    errors.append(refusal.body)
        errors += self._custom_errors(node_class, inputs)
        self._errors[node_id] = errors
        self._valid[node_id] = ancestors_valid and not errors
        return self._valid[node_id]

    def _check_input(
        self, node_class: NodeClass, inputs: Json, name: str, declared: list[Any], required: bool
    ) -> bool:
        """False if an ancestor is wrong; raises _Refused if the input itself is."""
        if name not in inputs:
            if required:
                text = "Required input is missing"
                raise _Refused("required_input_missing", text, name, input_name=name)
            return True
        if isinstance(inputs[name], list):
            return self._check_link(inputs[name], name, declared)
        inputs[name] = _converted(inputs[name], name, declared)
        if name not in node_class.validate:
            _check_value(inputs[name], name, declared)
        return True

    def _check_link(self, link: list[Any], name: str, declared: list[Any]) -> bool:
        config = _config(declared)
        if len(link) != 2:
            raise _Refused(
                "bad_linked_input",
                "Bad linked input, must be a length-2 list of [node_id, slot_index]",
                name,
                input_name=name,
                input_config=config,
                received_value=link,
            )
        source, slot = link
        received = tuple(self._classes[self._graph[source]["class_type"]].outputs)[slot]
        if not _types_meet(received, declared[0]):
            raise _Refused(
                "return_type_mismatch",
                "Return type mismatch between linked nodes",
                f"{name}, received_type({received}) mismatch input_type({declared[0]})",
                input_name=name,
                input_config=config,
                received_type=received,
                linked_node=link,
            )
        try:
            return self._validate(source)
        except Exception as error:
            extra = {"input_name": name, "input_config": config, "linked_node": link}
            self._fail(source, _exception_body("exception_during_inner_validation", error, extra))
            return False

    def _custom_errors(self, node_class: NodeClass, inputs: Json) -> list[Json]:
        errors = []
        for name, validate in node_class.validate.items():
            given = None if isinstance(inputs.get(name), list) else inputs.get(name)
            if name in inputs and (problem := validate(self._folders, given)):
                errors.append(
                    error_body(
                        "custom_validation_failed",
                        "Custom validation failed for node",
                        f"{name} - {problem}",
                        {"input_name": name},
                    )
                )
        return errors

    def _fail(self, node_id: str, error: Json) -> None:
        self._errors[node_id] = [error]
        self._valid[node_id] = False


def _types_meet(received: object, wanted: object) -> bool:
    if received == wanted:
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    return bool({t.strip() for t in received.split(",")} & {t.strip() for t in wanted.split(",")})


def _config(declared: list[Any]) -> list[Any]:
    return [declared[0], _options(declared)]


def _options(declared: list[Any]) -> Json:
    return declared[1] if len(declared) > 1 else {}


def _converted(value: Any, name: str, declared: list[Any]) -> Any:
    """The value as its declared type; raises _Refused if it cannot be converted.

    `{"__value__": […]}` is how a graph writes a list that is not a link.
    """
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    kind = declared[0]
    if not isinstance(kind, str) or kind not in CONVERSIONS:
        return value
    try:
        return CONVERSIONS[kind](value)
    except Exception as error:
        raise _Refused(
            "invalid_input_type",
            f"Failed to convert an input value to a {kind} value",
            f"{name}, {value}, {error}",
            input_name=name,
            input_config=_config(declared),
            received_value=value,
            exception_message=str(error),
        ) from error


def _check_value(value: Any, name: str, declared: list[Any]) -> None:
    """Raise _Refused unless the value is within its bounds and in its list."""
    options, config = _options(declared), _config(declared)
    received = {"input_name": name, "input_config": config, "received_value": value}
    if "min" in options and value < options["min"]:
        text = f"Value {value} smaller than min of {options['min']}"
        raise _Refused("value_smaller_than_min", text, name, **received)
    if "max" in options and value > options["max"]:
        text = f"Value {value} bigger than max of {options['max']}"
        raise _Refused("value_bigger_than_max", text, name, **received)
    choices = declared[0]
    if isinstance(choices, list) and value not in choices:
        shown = str(choices)
        if len(choices) > LONGEST_ENUM_SHOWN:
            shown = f"(list of length {len(choices)})"
            received["input_config"] = None
        details = f"{name}: '{value}' not in {shown}"
        raise _Refused("value_not_in_list", "Value not in list", details, **received)


def _exception_body(kind: str, error: Exception, more: Json | None = None) -> Json:
    """An exception of the validation itself, such as a link to a node that does not exist."""
    inner = more is not None
    message = "Exception when validating inner node" if inner else "Exception when validating node"
    extra = {
        **(more or {}),
        **({"exception_message": str(error)} if inner else {}),
        "exception_type": full_type_name(type(error)),
        "traceback": traceback.format_tb(error.__traceback__),
    }
    return error_body(kind, message, str(error), extra)


def full_type_name(kind: type) -> str:
    """`RuntimeError` for built-in types, `module.Name` for the others."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
