"""``comfy-proxy run``: what is asked for, before anything is sent."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_proxy.cli.asking import known_workflows
from comfy_proxy.cli.command import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Command,
    CommandError,
    Values,
    argument,
    option,
)
from comfy_proxy.cli.proxy_address import OPTIONS, ProxyAddress, find_proxy

if TYPE_CHECKING:
    from comfy_proxy.cli.run.items import Item
    from comfy_proxy.cli.run.outputs import Outputs
    from comfy_proxy.cli.run.view import Report, View
    from comfy_proxy.client.models import Workflow


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """All that is to be done."""

    workflow: Workflow
    parameters: dict[str, str]
    items: list[Item]
    outputs: Outputs
    again: bool


def _run(values: Values) -> int:
    from comfy_proxy.cli.run.view import Report

    proxy = find_proxy(values)
    wanted = _wanted(values, proxy)
    report = Report(total=len(wanted.items))
    try:
        asyncio.run(_run_all(wanted, proxy, report))
    except (KeyboardInterrupt, asyncio.CancelledError):
        again = "the same command goes on from here" if wanted.outputs.is_folder else "not finished"
        print(f"comfy-proxy: interrupted: {report}; {again}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except CommandError as error:
        if report.done:
            print(f"{report}", file=sys.stderr)
        raise error from None
    print(report)
    for label, why in report.failures if report.total > 1 else ():
        print(f"failed: {label}: {why}", file=sys.stderr)
    return EXIT_FAILED if report.failures else EXIT_DONE


def _wanted(values: Values, proxy: ProxyAddress) -> _Wanted:
    """Raises CommandError for what the workflow does not take."""
    from comfy_proxy.cli.run.items import expanded, make_items, pairs
    from comfy_proxy.cli.run.outputs import Outputs

    if values.count < 1:
        raise CommandError("--count is at least 1.", code=EXIT_USAGE)
    workflow = _find_workflow(values, proxy)
    parameters = pairs(values.param, "--param")
    _check_parameters(workflow, parameters)
    named = {name: Path(text) for name, text in pairs(values.file, "--file").items()}
    paths = expanded(values.files)
    if values.files and not paths:
        raise CommandError(f"there is no file in {', '.join(values.files)}.", code=EXIT_USAGE)
    target = Path(values.output)
    is_folder = (
        values.output.endswith(("/", "\\")) or target.is_dir() or len(paths) * values.count > 1
        or (not paths and values.count > 1)
    )  # fmt: skip
    if is_folder:
        _make_folder(target)
    elif not target.absolute().parent.is_dir():
        raise CommandError(f"there is no folder {target.parent}.", code=EXIT_USAGE)
    _check_writable(target if is_folder else target.absolute().parent)
    folder = target if is_folder else None
    items = make_items(workflow, paths, named, count=values.count, folder=folder)
    inputs = frozenset(path.resolve() for item in items for path in item.files.values())
    outputs = Outputs(target=target, is_folder=is_folder, inputs=inputs)
    if not is_folder and target.resolve() in inputs:
        raise CommandError(f"{target} is an input, which is not replaced.", code=EXIT_USAGE)
    return _Wanted(
        workflow=workflow,
        parameters=parameters,
        items=items,
        outputs=outputs,
        again=values.again or not is_folder,
    )


def _find_workflow(values: Values, proxy: ProxyAddress) -> Workflow:
    from comfy_proxy.cli.talk import AT_ONCE, nearest, told_in_words
    from comfy_proxy.client.synchronous import Client

    with (
        told_in_words(proxy),
        Client(proxy.url, proxy.api_key, policy=AT_ONCE, verify=proxy.verify) as client,
    ):
        known = client.workflows()
    for workflow in known:
        if workflow.name == values.workflow:
            return workflow
    raise nearest(values.workflow, [one.name for one in known], "workflow")


def _check_parameters(workflow: Workflow, parameters: dict[str, str]) -> None:
    from comfy_proxy.cli.talk import nearest

    known = [name for name in workflow.parameters.get("properties") or {}]
    for name in parameters:
        if name in workflow.file_parameters:
            raise CommandError(f"{name} is a file: --file {name}=…", code=EXIT_USAGE)
        if name not in known:
            raise nearest(name, known, f"parameter of {workflow.name}")
    for name in workflow.required:
        if name not in parameters and name not in workflow.file_parameters:
            raise CommandError(f"{workflow.name} needs --param {name}=…", code=EXIT_USAGE)


def _make_folder(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{target}: {error.strerror}", code=EXIT_USAGE) from None


def _check_writable(folder: Path) -> None:
    """Before anything is run: results that cannot be kept are a GPU's time for nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"{folder} cannot be written to: {error.strerror}."
        raise CommandError(message, code=EXIT_USAGE) from None


async def _run_all(wanted: _Wanted, proxy: ProxyAddress, report: Report) -> None:
    from comfy_proxy.cli.run.batch import Batch
    from comfy_proxy.cli.run.one_item import ItemRun
    from comfy_proxy.cli.run.outputs import DoneBook
    from comfy_proxy.client.asynchronous import AsyncClient
    from comfy_proxy.client.policy import Policy

    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    policy = Policy(max_wait_s=3600.0)
    folder = wanted.outputs.target if wanted.outputs.is_folder else None
    async with AsyncClient(proxy.url, proxy.api_key, policy=policy, verify=proxy.verify) as client:
        with _view(wanted) as view:
            runs = ItemRun(
                client=client,
                workflow=wanted.workflow.name,
                parameters=wanted.parameters,
                file_fields=wanted.workflow.file_parameters,
                outputs=wanted.outputs,
                book=DoneBook(folder),
                view=view,
                again=wanted.again,
            )
            await Batch(runs, wanted.items, proxy, report).run()


def _view(wanted: _Wanted) -> View:
    from comfy_proxy.cli.run.view import Lines
    from comfy_proxy.cli.tables import on_terminal

    if not on_terminal():
        return Lines()
    from comfy_proxy.cli.run.bars import Bars

    return Bars(wanted.workflow.name, len(wanted.items))


COMMANDS = (
    Command(
        name="run",
        help="run files through a workflow, on all GPUs at once",
        more="Each file is a job; as many run at a time as keep all instances busy. In a folder"
        " what is done already is skipped, if it was made of the same file with the same"
        " parameters, so the same command goes on where one was interrupted. A file that fails does"
        " not stop the others; the exit code is 1 then. Ctrl-C cancels what is not done.",
        run=_run,
        extra="cli",
        parameters=(
            argument("workflow", "its name (comfy-proxy workflows lists them)", required=True,
                     metavar="WORKFLOW", complete=known_workflows),
            argument("files", "files, or folders of files, for its first file parameter",
                     many=True, metavar="FILE"),
            option("output", "a folder, or the file if there is one result", short="-o",
                   required=True, metavar="PATH"),
            option("param", "a parameter of the workflow; may be given several times",
                   many=True, short="-p", metavar="NAME=VALUE"),
            option("file", "a file for another of its file parameters",
                   many=True, metavar="NAME=FILE"),
            option("count", "how often each is run", type=int, default=1, metavar="N"),
            option("again", "also what is done already", type=bool),
            *OPTIONS,
        ),
    ),
)  # fmt: skip
