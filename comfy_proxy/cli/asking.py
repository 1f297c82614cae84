"""``comfy-proxy workflows``, ``jobs`` and ``cancel``: questions and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from comfy_proxy.cli.command import (
    EXIT_DONE,
    EXIT_FAILED,
    Command,
    Values,
    argument,
    option,
)
from comfy_proxy.cli.proxy_address import OPTIONS

if TYPE_CHECKING:
    from comfy_proxy.client.models import Status, Workflow


def known_workflows(values: Values) -> list[str]:
    """For completion, which only those ask for who have the extra."""
    from comfy_proxy.cli.talk import workflow_names

    return workflow_names(values)


def _known_jobs(values: Values) -> list[str]:
    from comfy_proxy.cli.talk import job_ids

    return job_ids(values)


def _workflows(values: Values) -> int:
    from comfy_proxy.cli.tables import say_table
    from comfy_proxy.cli.talk import nearest, talk

    with talk(values) as client:
        known = client.workflows()
    if values.name is None:
        rows = [(one.name, ", ".join(one.file_parameters), one.title) for one in known]
        say_table(("workflow", "files", "title"), rows)
        return EXIT_DONE
    found = next((one for one in known if one.name == values.name), None)
    if found is None:
        raise nearest(values.name, [one.name for one in known], "workflow")
    _describe(found)
    return EXIT_DONE


def _describe(workflow: Workflow) -> None:
    from comfy_proxy.cli.tables import say_table

    print(f"{workflow.name}: {workflow.title}")
    if workflow.description:
        print(workflow.description)
    rows = [
        (name, _kind(schema), "needed" if name in workflow.required else _default(schema),
         schema.get("description", ""))
        for name, schema in (workflow.parameters.get("properties") or {}).items()
    ]  # fmt: skip
    if rows:
        print()
        say_table(("parameter", "kind", "default", "meaning"), rows)
    for line in _where(workflow):
        print(line)


def _where(workflow: Workflow) -> Iterator[str]:
    """Which variant runs on which instance, and what others lack."""
    for variant in workflow.variants:
        runs = ", ".join(variant.get("runs_on") or ()) or "no instance"
        yield f"variant {variant.get('name')}: runs on {runs}"
        for host, missing in (variant.get("missing") or {}).items():
            yield f"  {host} lacks {', '.join(missing)}"


def _kind(schema: Mapping[str, Any]) -> str:
    if schema.get("format") == "binary":
        return f"file ({schema.get('x-kind', 'file')})"
    if "enum" in schema:
        return "one of " + ", ".join(str(one) for one in schema["enum"])
    bounds = {
        "minimum": "at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "up to {}",
        "exclusiveMaximum": "below {}",
    }
    limits = [text.format(schema[name]) for name, text in bounds.items() if name in schema]
    return " ".join([str(schema.get("type", "anything")), *limits])


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else str(value)


def _jobs(values: Values) -> int:
    from comfy_proxy.cli.tables import say_table
    from comfy_proxy.cli.talk import talk

    with talk(values) as client:
        known = client.jobs(status=values.status, workflow=values.workflow)
    say_table(("job", "workflow", "status", "at", "since"), [_row(job) for job in known])
    return EXIT_DONE


def _row(job: Status) -> tuple[object, ...]:
    status = job.status
    if status == "processing":
        status = f"processing {job.progress_percentage:.0f} %"
    elif job.queue_position is not None:
        status = f"pending, place {job.queue_position}"
    elif job.error is not None:
        status = f"failed: {job.error.get('message')}"
    return job.job_id, job.type, status, job.instance, job.raw.get("created_time")


def _cancel(values: Values) -> int:
    from comfy_proxy.cli.talk import talk

    code = EXIT_DONE
    with talk(values) as client:
        for job_id in values.jobs:
            if client.job(job_id).cancel():
                print(f"{job_id}: cancelled, and forgotten by the proxy")
            else:
                print(f"{job_id}: there is no such job")
                code = EXIT_FAILED
    return code


COMMANDS = (
    Command(
        name="workflows",
        help="which workflows there are, or one with its parameters",
        run=_workflows,
        extra="cli",
        parameters=(
            argument("name", "the one to describe", metavar="NAME", complete=known_workflows),
            *OPTIONS,
        ),
    ),
    Command(
        name="jobs",
        help="the jobs that the proxy knows",
        run=_jobs,
        extra="cli",
        parameters=(
            option("status", "only those: pending, processing, completed or failed",
                   metavar="STATUS",
                   complete=lambda values: ("pending", "processing", "completed", "failed")),
            option("workflow", "only those of this workflow", metavar="NAME",
                   complete=known_workflows),
            *OPTIONS,
        ),
    ),
    Command(
        name="cancel",
        help="end jobs wherever they are, and forget them",
        run=_cancel,
        extra="cli",
        parameters=(
            argument("jobs", "ids of jobs", many=True, required=True, metavar="JOB",
                     complete=_known_jobs),
            *OPTIONS,
        ),
    ),
)  # fmt: skip
