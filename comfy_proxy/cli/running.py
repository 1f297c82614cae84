"""``comfy-proxy run``: what is asked for, before anything is sent."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

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
    check_range,
    option,
)
from comfy_proxy.cli.proxy_address import OPTIONS, ProxyAddress, find_proxy

if TYPE_CHECKING:
    from comfy_proxy.cli.run.done_book import DoneBook
    from comfy_proxy.cli.run.items import Item
    from comfy_proxy.cli.run.outputs import Outputs
    from comfy_proxy.cli.run.view import Report, View
    from comfy_proxy.client.models import Workflow

MAX_COUNT: Final = 100_000
"""How often one file is run at most."""


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """All that is to be done."""

    workflow: Workflow
    parameters: dict[str, str]
    items: list[Item]
    outputs: Outputs
    book: DoneBook
    again: bool

    @property
    def out(self) -> TextIO:
        """Where lines go: beside the result, if that is standard output."""
        return sys.stderr if self.outputs.target.is_standard_output else sys.stdout


def _run(values: Values) -> int:
    from comfy_proxy.cli.run.view import Report

    proxy = find_proxy(values)
    wanted = _wanted(values, proxy)
    report = Report(total=len(wanted.items))
    try:
        asyncio.run(_run_all(wanted, proxy, report))
    except (KeyboardInterrupt, asyncio.CancelledError):
        goes_on = wanted.outputs.target.folder is not None
        again = "the same command goes on from here" if goes_on else "not finished"
        print(f"comfy-proxy: interrupted: {report}; {again}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except CommandError as error:
        if report.done:
            print(f"{report}", file=sys.stderr)
        raise error from None
    print(report, file=wanted.out)
    for label, why in report.failures if report.total > 1 else ():
        print(f"failed: {label}: {why}", file=sys.stderr)
    return EXIT_FAILED if report.failures else EXIT_DONE


def _wanted(values: Values, proxy: ProxyAddress) -> _Wanted:
    """Raises CommandError for what the workflow does not take."""
    from comfy_proxy.cli.run.done_book import DoneBook
    from comfy_proxy.cli.run.items import expanded, make_items, pairs
    from comfy_proxy.cli.run.outputs import Outputs
    from comfy_proxy.cli.run.target import find_target

    check_range("--count", values.count, 1, MAX_COUNT)
    workflow = _find_workflow(values, proxy)
    parameters = pairs(values.param, "--param")
    _check_parameters(workflow, parameters)
    named = {name: Path(text) for name, text in pairs(values.file, "--file").items()}
    found = expanded(values.files, lambda path: False)
    if values.files and not found:
        raise CommandError(f"there is no file in {', '.join(values.files)}.", code=EXIT_USAGE)
    target = find_target(values.output, max(1, len(found)) * values.count)
    book = DoneBook(target.folder)
    paths = expanded(values.files, book.holds)
    if found != paths:
        _tell_left_out(found, paths)
    items = make_items(workflow, paths, named, count=values.count, folder=target.folder)
    inputs = frozenset(path.resolve() for item in items for path in item.files.values())
    if target.file is not None and target.file.resolve() in inputs:
        raise CommandError(f"{target.file} is an input, which is not replaced.", code=EXIT_USAGE)
    return _Wanted(
        workflow=workflow,
        parameters=parameters,
        items=items,
        outputs=Outputs(target=target, inputs=inputs),
        book=book,
        again=values.again,
    )


def _tell_left_out(found: list[Path], kept: list[Path]) -> None:
    """Raises CommandError if nothing is kept."""
    left_out = len(found) - len(kept)
    results = (
        "1 result of an earlier run is"
        if left_out == 1
        else (f"{left_out} results of earlier runs are")
    )
    told = f"{results} no input here (one that is named alone would be)."
    if not kept:
        raise CommandError(f"there is no other file: {told}", code=EXIT_USAGE)
    print(f"comfy-proxy: {told}", file=sys.stderr)


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


async def _run_all(wanted: _Wanted, proxy: ProxyAddress, report: Report) -> None:
    from comfy_proxy.cli.run.batch import Batch
    from comfy_proxy.cli.run.one_item import ItemRun
    from comfy_proxy.client.asynchronous import AsyncClient
    from comfy_proxy.client.policy import Policy

    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    policy = Policy(max_wait_s=3600.0)
    async with AsyncClient(proxy.url, proxy.api_key, policy=policy, verify=proxy.verify) as client:
        with _view(wanted) as view:
            runs = ItemRun(
                client=client,
                workflow=wanted.workflow.name,
                parameters=wanted.parameters,
                file_fields=wanted.workflow.file_parameters,
                outputs=wanted.outputs,
                book=wanted.book,
                view=view,
                again=wanted.again,
            )
            await Batch(runs, wanted.items, proxy, report).run()


def _view(wanted: _Wanted) -> View:
    from comfy_proxy.cli.run.view import Lines
    from comfy_proxy.cli.tables import on_terminal

    if not on_terminal() or wanted.outputs.target.is_standard_output:
        return Lines(wanted.out)
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
            option("output", "a folder, or the file if there is one result; - is standard output",
                   short="-o", required=True, metavar="PATH"),
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
