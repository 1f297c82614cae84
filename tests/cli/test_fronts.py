"""typer and argparse read the same command line, because each command is described once."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from comfy_proxy.cli import argparse_front, main, typer_front
from comfy_proxy.cli.command import Command, CommandError, Parameter
from comfy_proxy.cli.serving import SECRET
from comfy_proxy.cli.table import ABOUT, COMMANDS
from comfy_proxy.settings import VARIABLES

ROOT = Path(__file__).parents[2]
BY_NAME = {command.name: command for command in COMMANDS}
WITHOUT_EXTRAS = """
import sys
sys.modules.update(dict.fromkeys(["typer", "rich", "httpx", "httpx_sse"]))
from comfy_proxy.cli import main
sys.exit(main(sys.argv[1:]))
"""


def example(parameter: Parameter) -> list[str]:
    """Words that give it a value."""
    value = "3" if parameter.type in (int, float) else "value"
    if parameter.flag is None:
        return [value, "other"] if parameter.many else [value]
    if parameter.type is bool:
        return [parameter.flag]
    return [parameter.flag, value, parameter.flag, value] if parameter.many else [
        parameter.short or parameter.flag, value
    ]  # fmt: skip


def needed(command: Command) -> list[str]:
    return [word for one in command.parameters if one.required for word in example(one)]


def both(words: list[str]) -> tuple[Any, Any]:
    by_argparse = argparse_front.parse(COMMANDS, words, ABOUT)
    by_typer = typer_front.parse(COMMANDS, words, ABOUT)
    assert not isinstance(by_typer, int)
    return (by_argparse[0].name, vars(by_argparse[1])), (by_typer[0].name, vars(by_typer[1]))


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_each_command_reads_the_same(name: str) -> None:
    """With all of its parameters, with each one alone, and with none that may be left out."""
    command = BY_NAME[name]
    lines = [needed(command), [w for one in command.parameters for w in example(one)]]
    lines += [
        needed(command) + example(one)
        for one in command.parameters
        if not one.required and one.flag is not None
    ]
    for words in lines:
        by_argparse, by_typer = both([name, *words])
        assert by_argparse == by_typer
        assert set(by_typer[1]) == {one.name for one in command.parameters}


@pytest.mark.parametrize(
    ("words", "wait"),
    [(["1"], 0.0), (["1", "--wait"], float("inf")), (["1", "--wait", "2.5"], 2.5),
     (["--wait=7", "1"], 7.0), (["1", "--wait", "--url", "x"], float("inf"))],
)  # fmt: skip
def test_an_option_may_have_its_value_left_out(words: list[str], wait: float) -> None:
    by_argparse, by_typer = both(["drain", *words])
    assert by_argparse == by_typer
    assert by_typer[1]["wait"] == wait


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [[], ["srve"], ["serve", "--prt", "1"], ["serve", "extra"], ["run", "x"], ["cancel"],
     ["drain"], ["drain", "1", "--wait", "soon"], ["serve", "--por", "1"]],
)  # fmt: skip
def test_a_mistake_is_one_for_both(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2; by typer in one sentence."""
    with pytest.raises(SystemExit) as left:
        argparse_front.parse(COMMANDS, words, ABOUT)
    assert left.value.code == 2
    with pytest.raises(CommandError) as mistake:
        typer_front.parse(COMMANDS, words, ABOUT)
    assert mistake.value.code == 2
    capsys.readouterr()
    assert main(words) == 2
    told = capsys.readouterr()
    assert (told.out, len(told.err.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    "words",
    [["demo", "--port", "99999"], ["demo", "--port", "-1"], ["demo", f"--port={10**20}"],
     ["drain", "1", "--wait=nan"], ["remove", "1", "--wait=-1"], ["serve", "--port", "99999"],
     ["run", "x", "a.png", "-o", "x.png", "--count", "-1"],
     ["run", "x", "a.png", "-o", "x.png", f"--count={10**20}"]],
)  # fmt: skip
def test_a_number_out_of_range_is_told_in_one_sentence(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every command that takes one, before anything is begun."""
    assert main(words) == 2
    told = capsys.readouterr()
    assert (told.out, len(told.err.splitlines())) == ("", 1)


def test_serve_has_an_option_for_each_setting() -> None:
    """Generated from their table; keys are not to be read by everybody on the machine."""
    options = {one.flag: one.help for one in BY_NAME["serve"].parameters}
    for row in VARIABLES:
        flag = f"--{row.name.lower().replace('_', '-')}"
        assert (flag in options) == (row.name not in SECRET)
        if flag in options:
            assert row.help in options[flag]
            assert row.default in options[flag]
    secrets = {
        row.name
        for row in VARIABLES
        if {"KEYS", "SECRET", "TOKEN", "PASSWORD"} & {row.name.rpartition("_")[2]}
    }
    assert set(SECRET) == secrets


@pytest.mark.long
def test_help_can_be_read_of_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and percent signs in it are no markup and no format; each option is in it."""
    parsers = argparse_front.parser(COMMANDS, ABOUT)
    (listed,) = [one for one in parsers._actions if isinstance(one, argparse._SubParsersAction)]
    for command in COMMANDS:
        plain = listed.choices[command.name].format_help()
        assert typer_front.parse(COMMANDS, [command.name, "--help"], ABOUT) == 0
        pretty = capsys.readouterr().out
        for parameter in command.parameters:
            if parameter.flag is not None:
                assert parameter.flag in plain
                assert parameter.flag[:20] in pretty
        assert "Traceback" not in plain + pretty


def without_extras(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", [one.name for one in COMMANDS if one.extra])
def test_without_the_extra_it_is_named_in_a_sentence(name: str) -> None:
    done = without_extras(name, *needed(BY_NAME[name]))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "needs the extra 'cli'" in done.stderr
    assert "pip install 'comfyui-proxy[cli]'" in done.stderr


@pytest.mark.long
def test_without_the_extra_the_others_run() -> None:
    """``check`` against nobody, ``serve`` with a setting that is wrong, ``drain`` of nobody."""
    done = without_extras("check", "--instance", "127.0.0.1:1")
    assert (done.returncode, "cannot be reached" in done.stdout) == (1, True)
    done = without_extras("serve", "--port", "99999")
    assert (done.returncode, "PORT" in done.stderr) == (2, True)
    done = without_extras("drain", "1", "--url", "127.0.0.1:1")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "comfy-proxy" in without_extras("--version").stdout


@pytest.mark.long
def test_the_shell_is_offered_commands_and_options() -> None:
    """By typer, for the shells that it knows."""
    command = get_command(typer_front.app(COMMANDS, ABOUT))
    assert {one.name for one in COMMANDS} == set(command.commands)  # type: ignore[attr-defined]
    offered = subprocess.run(
        [sys.executable, "-m", "comfy_proxy"],
        cwd=ROOT,
        env={"_COMFY_PROXY_COMPLETE": "complete_bash", "COMP_WORDS": "comfy-proxy re",
             "COMP_CWORD": "1", "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert offered.stdout.split() == ["resume", "remove"], offered.stderr
