"""The scripts of a fresh clone: which Python they take, and that they say what they do.

Each runs in a copy of ``scripts/`` with interpreters that only know their version and write down
how they were called; nothing else is on the path but the tools of a shell.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(
    path.name
    for path in (ROOT / "scripts").iterdir()
    if os.access(path, os.X_OK) and path.is_file() and path.name not in ("install", "live-comfyui")
)
TOOLS = ("bash", "cat", "chmod", "cp", "dirname", "env", "grep", "head", "id", "mkdir", "rm", "sed",
         "sort", "touch")  # fmt: skip
PYTHON = """#!/usr/bin/env bash
echo "{name} $*" >> "{calls}"
case "$*" in
  *version_info*) echo {version} ;;
  *"import ensurepip") exit {ensurepip} ;;
  "-m venv "*) mkdir -p "${{!#}}/bin" && cp "$0" "${{!#}}/bin/python" ;;
  *"pip install"*) echo "  Downloading numpy-2.4.6-cp311.whl (16.4 MB)" ;;
esac
"""


class Clone:
    """A fresh clone on a machine that has the interpreters added, and no other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        self.tools = folder / "bin"
        self._calls = folder / "calls"
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        self.tools.mkdir()
        for name in TOOLS:
            (self.tools / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name}"))

    def add_python(
        self, name: str, version: str, *, at: Path | None = None, ensurepip: bool = True
    ) -> Path:
        """An interpreter on the path, or in the folder ``at``."""
        path = (at or self.tools) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = PYTHON.format(
            name=name, version=version, calls=self._calls, ensurepip=0 if ensurepip else 1
        )
        path.write_text(text)
        path.chmod(0o755)
        return path

    def add_tool(self, name: str, text: str) -> None:
        (self.tools / name).unlink(missing_ok=True)
        (self.tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (self.tools / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "scripts" / script, *arguments],
            env={"PATH": str(self.tools), "HOME": str(self.folder), **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def calls(self, contained: str) -> list[str]:
        """The names of the interpreters that were called like that, in turn."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [line.partition(" ")[0] for line in lines if contained in line]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def assert_told(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It failed, said nothing but one line on standard error, and that has the words."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_bash_can_read_each_script() -> None:
    """Without running it; CI's own calls scripts that are there."""
    scripts = [
        ROOT / "scripts" / name for name in ("install", "live-comfyui", "common.sh", *SCRIPTS)
    ]
    for path in (*scripts, ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", path], check=True)
    called = re.findall(r"scripts/([\w-]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert {"test", "demo", "live-comfyui"} <= set(called)
    for name in called:
        assert os.access(ROOT / "scripts" / name, os.X_OK), name


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_is_told_in_one_line(clone: Clone, script: str) -> None:
    """Before anything is made, downloaded or installed, whichever script is called."""
    clone.add_python("python3", "3.10.13")
    assert_told(clone.run(script), "Python 3.11 or newer", "python3 is 3.10.13", "PYTHON=")
    assert not (clone.folder / ".venv").exists()
    assert len(clone.calls("")) == len(clone.calls("version_info"))


def test_a_machine_without_python_is_told_in_one_line(clone: Clone) -> None:
    """Not the shell's word that a command is not found, and no attempt to install one."""
    assert_told(clone.run("demo"), "Python 3.11 or newer", "python3 cannot be run")


@pytest.mark.parametrize("old", ["3.10.13", None])
def test_the_newest_of_the_supported_ones_is_taken_if_python3_is_too_old(
    clone: Clone, old: str | None
) -> None:
    """Or missing: a machine often has a newer one beside it, under its full name."""
    if old:
        clone.add_python("python3", old)
    for version in ("3.10.9", "3.11.2", "3.13.0", "3.12.1"):
        clone.add_python(f"python{version.rpartition('.')[0]}", version)
    assert clone.run("install", "dev").returncode == 0
    assert clone.calls("-m venv") == ["python3.13"]


def test_python3_is_taken_if_it_is_new_enough(clone: Clone) -> None:
    """It is what the machine's owner has chosen."""
    clone.add_python("python3", "3.11.2")
    clone.add_python("python3.13", "3.13.0")
    assert clone.run("install", "dev").returncode == 0
    assert clone.calls("-m venv") == ["python3"]


def test_the_python_that_is_named_is_taken(clone: Clone, tmp_path: Path) -> None:
    """PYTHON wins over all that is on the path, and VENV over the folder by default."""
    clone.add_python("python3", "3.13.0")
    clone.add_python("python3.12", "3.12.1")
    venv = tmp_path / "a folder"
    assert clone.run("install", "dev", PYTHON="python3.12", VENV=str(venv)).returncode == 0
    assert clone.calls("-m venv") == ["python3.12"]
    assert (venv / "bin" / "python").exists()
    assert not (clone.folder / ".venv").exists()


def test_a_python_that_is_named_and_too_old_is_told_in_one_line(clone: Clone) -> None:
    """No other one is taken in its place."""
    clone.add_python("python3", "3.13.0")
    old = clone.add_python("python3.9", "3.9.2")
    assert_told(clone.run("test", PYTHON="python3.9"), "python3.9 is 3.9.2")
    assert_told(clone.run("test", PYTHON=str(old)), f"{old} is 3.9.2")
    assert_told(clone.run("test", PYTHON="python3.8"), "python3.8 cannot be run")


@pytest.mark.parametrize("script", ["demo", "test"])
def test_an_environment_of_an_old_python_is_told_in_one_line(clone: Clone, script: str) -> None:
    """With what to do about it; it may be somebody's, so it is not taken away."""
    clone.add_python("python3", "3.13.0")
    kept = clone.add_python("python", "3.10.13", at=clone.folder / ".venv" / "bin")
    assert_told(clone.run(script), ".venv is of 3.10.13", "rm -r .venv")
    assert kept.exists()


def test_an_environment_of_another_python_than_the_one_named_is_told(clone: Clone) -> None:
    """Or the tests would run, without a word, with a Python that nobody asked for."""
    clone.add_python("python3", "3.11.2")
    assert clone.run("install", "dev").returncode == 0
    clone.add_python("python3.12", "3.12.1")
    assert_told(clone.run("test", PYTHON="python3.12"), "PYTHON is 3.12.1", ".venv is of 3.11.2")
    assert clone.run("install", "dev", PYTHON="python3").returncode == 0


def test_an_environment_whose_python_is_gone_is_made_anew(clone: Clone) -> None:
    """As after an upgrade of the system: its interpreter is a link to nothing."""
    clone.add_python("python3", "3.13.0")
    binaries = clone.folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to("/nowhere/python3.10")
    (binaries.parent / "pyvenv.cfg").touch()
    clone.run("install", "dev")
    assert clone.calls("-m venv --clear .venv") == ["python3"]


def test_what_is_done_is_said_and_done_once(clone: Clone) -> None:
    """Each step before it begins, each download; nothing when there is nothing to do."""
    clone.add_python("python3", "3.11.2")
    first = clone.run("install", "dev")
    assert re.findall(r"making \.venv with Python 3\.11\.2", first.stdout)
    assert re.findall(r"installing comfy_proxy\[dev\] into \.venv", first.stdout)
    assert re.findall(r"Downloading numpy\S+ \(16\.4 MB\)", first.stdout)
    again = clone.run("install", "dev")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert len(clone.calls("pip install")) == 1


def test_a_failed_installation_is_tried_again(clone: Clone) -> None:
    """pip's word and exit code come through, and no later run takes it for done."""
    path = clone.add_python("python3", "3.11.2")
    works = path.read_text()
    path.write_text(works.replace('echo "  Downloading', 'echo "no network" >&2; exit 3; echo "'))
    failed = clone.run("install", "dev")
    assert failed.returncode == 3
    assert "no network" in failed.stderr
    (clone.folder / ".venv" / "bin" / "python").write_text(works)
    assert clone.run("install", "dev").returncode == 0
    assert len(clone.calls("pip install")) == 2


def test_an_environment_that_two_clones_share_is_installed_for_the_one_in_use(
    tmp_path: Path,
) -> None:
    """Or the second clone would run the code of the first one."""
    venv = str(tmp_path / "venv")
    clones = [Clone(tmp_path / name) for name in ("one", "two")]
    for clone in clones:
        clone.add_python("python3", "3.11.2")
    first, second = clones
    for clone, extras in ((first, "dev"), (second, "embedded"), (first, "dev")):
        said = clone.run("install", extras, VENV=venv).stdout
        assert f"installing comfy_proxy[{extras}]" in said


def test_who_may_not_install_packages_is_told_which_one_is_needed(clone: Clone) -> None:
    """Debian has ensurepip, without which no environment gets pip, in a package of its own."""
    clone.add_python("python3", "3.11.2", ensurepip=False)
    clone.add_tool("id", "echo 1000")
    assert_told(clone.run("demo"), "as root, apt-get install python3.11-venv")
    assert not (clone.folder / ".venv").exists()


def test_root_gets_the_package_that_the_environment_needs(clone: Clone) -> None:
    """The one of the Python that was chosen."""
    clone.add_python("python3", "3.10.13")
    clone.add_python("python3.12", "3.12.1", ensurepip=False)
    clone.add_tool("id", "echo 0")
    clone.add_tool("apt-get", f'echo "$*" >> {clone.folder}/packages')
    done = clone.run("install", "dev")
    assert done.returncode == 0
    assert "installing Debian's python3.12-venv" in done.stdout
    assert (clone.folder / "packages").read_text().split()[-1] == "python3.12-venv"


def test_a_comfyui_for_live_tests_wants_its_python(clone: Clone) -> None:
    """Told before anything is downloaded."""
    done = clone.run("live-comfyui", "--keep")
    assert_told(done, "Python 3.10 or 3.11", "python3.11 cannot be run", "COMFY_LIVE_PYTHON")


def test_what_another_program_reads_has_nothing_else_in_it(clone: Clone) -> None:
    """``live-comfyui --keep`` says what to export on standard output, what it does on the other."""
    clone.add_python("python3.11", "3.11.2")
    done = clone.run("live-comfyui", "--keep")
    assert "installing ComfyUI 0.3.75" in done.stderr
    assert done.stdout == ""
