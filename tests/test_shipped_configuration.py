"""Every shipped configuration can be read, and names settings, commands and ports that exist."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from string import Template

import pytest
from packaging.requirements import Requirement
from shipped_files import (
    CONFIG,
    DEFAULTS,
    ROOT,
    check_command,
    is_setting,
    read_dockerfile,
    read_json,
    read_module,
    read_nginx,
    read_unit,
    read_yaml,
    setup_cfg,
    supported_pythons,
)

from comfy_proxy.cli.proxy_address import KEY_VARIABLE, URL_VARIABLE
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.settings import Settings, load_settings

TOML = CONFIG / "comfy-proxy.toml"
UNIT = CONFIG / "systemd" / "comfy-proxy.service"
DOCKERFILE = CONFIG / "docker" / "Dockerfile"
KUBERNETES = CONFIG / "kubernetes" / "comfy-proxy.yml"
OF_OTHERS = {
    *("COMFYUI_IMAGE", "CUDA_VISIBLE_DEVICES", "COMFY_PROXY_PYTHON"),
    *(URL_VARIABLE, KEY_VARIABLE, "COMFY_BASE_URL", "COMFY_API_KEY"),
    *("API_KEY", "COMFYUI_HOSTS", "COMFY_HOST_1", "COMFYUI_PATH", "COMFYUI_PORT"),
}
"""Names of variables in our files that Docker Compose, CUDA, the plugin, the command and the SDKs
read; and slips."""
FILES = sorted(
    path for path in CONFIG.rglob("*") if path.is_file() and "__pycache__" not in path.parts
)
READERS = {
    ".py": lambda path: ast.parse(path.read_text(encoding="utf-8")),
    ".md": lambda path: path.read_text(encoding="utf-8"),
    ".txt": lambda path: list(map(Requirement, path.read_text(encoding="utf-8").splitlines())),
    ".yml": read_yaml,
    ".json": read_json,
    ".toml": lambda path: tomllib.loads(path.read_text(encoding="utf-8")),
    ".service": read_unit,
    ".conf": read_nginx,
    ".mjs": read_module,
    "Dockerfile": read_dockerfile,
}


def unit_values(name: str) -> list[str]:
    return [value for found, value in read_unit(UNIT)["Service"] if found == name]


@pytest.mark.parametrize(
    "path",
    [
        *FILES,
        *sorted((ROOT / "comfy_proxy").rglob("*.json")),
        ROOT / "tests" / "monitoring" / "alerts_test.yml",
        ROOT / "pyproject.toml",
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_it_can_be_read(path: Path) -> None:
    """By a parser of its format; a file of a new format needs one here."""
    assert READERS[path.suffix or path.name](path)


@pytest.mark.parametrize(
    "path",
    [*(path for path in FILES if path.suffix != ".py"), ROOT / "README.md"],
    ids=lambda path: path.name,
)
def test_each_variable_that_is_named_exists(path: Path) -> None:
    """In values, comments and texts: names of several words in capitals are settings."""
    for name in re.findall(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b", path.read_text(encoding="utf-8")):
        assert is_setting(name) or name in OF_OTHERS, name


def test_the_example_settings_are_accepted() -> None:
    """As they are; those in comments, each with its value, when they are taken out of them."""
    assert len(load_settings({}, TOML).instances) == 2


def test_the_example_settings_in_comments_are_accepted(tmp_path: Path) -> None:
    """Whoever takes away the comment sign gets what the comment says."""
    text = re.sub(r"^# (\w+ = )", r"\1", TOML.read_text(encoding="utf-8"), flags=re.M)
    written = tomllib.loads(text)
    assert written.keys() - tomllib.loads(TOML.read_text(encoding="utf-8")).keys()
    path = tmp_path / "all.toml"
    path.write_text(text.replace(written["workflow_directory"], str(CONFIG / "workflows")))
    settings = load_settings({}, path)
    assert len(settings.instances) == 3
    assert settings.api_keys == tuple(written["api_keys"])
    assert settings.cors_origins == tuple(written["cors_origins"])
    assert settings.workflow_directory == CONFIG / "workflows"


def test_the_values_of_the_example_settings_are_the_defaults() -> None:
    """It shows what is so without it; only the network's and the instances' are examples."""
    assert load_settings({}, TOML) == Settings()


def test_the_example_workflows_load() -> None:
    """Each template in config/workflows becomes a workflow of its name."""
    folder = CONFIG / "workflows"
    names = {path.stem for path in folder.glob("*.json")}
    assert names
    assert names <= set(load_workflows(folder).names())


def test_the_unit_sets_and_starts_what_exists() -> None:
    """Its variables are accepted as settings, its command is ours."""
    environment = dict(
        word.split("=", 1) for value in unit_values("Environment") for word in shlex.split(value)
    )
    assert all(map(is_setting, environment))
    settings = load_settings(environment)
    assert len(settings.instances) == 2
    assert unit_values("LogsDirectory") == [settings.log_directory.name]
    assert settings.log_directory.parent == Path("/var/log")
    assert unit_values("StateDirectory") == [settings.state_file.parent.name]
    assert settings.state_file.parent.parent == Path("/var/lib")
    check_command(shlex.split(unit_values("ExecStart")[0]))


def test_systemd_waits_while_jobs_have_time_to_finish() -> None:
    """It kills later than the grace period, and as long again for answers that are being sent."""
    assert float(unit_values("TimeoutStopSec")[0]) >= 2 * Settings().shutdown_timeout_s + 10


def test_kubernetes_waits_while_jobs_have_time_to_finish() -> None:
    """The time before SIGTERM (preStop) counts too; probes and ports are those of the proxy."""
    _, deployment, service = read_yaml(KUBERNETES)["items"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    needed_s = pause_s + 2 * Settings().shutdown_timeout_s + 10
    assert pod["terminationGracePeriodSeconds"] >= needed_s
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert {one["containerPort"] for one in container["ports"]} == {Settings().port}
    assert all(is_setting(one["name"]) for one in container["env"])
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]


def test_kubernetes_keeps_the_state_of_the_proxy() -> None:
    """The image's STATE_FILE is in a volume that outlives the pod, which one pod has at a time and
    the image's user can write."""
    claim, deployment, _ = read_yaml(KUBERNETES)["items"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert claim["kind"] == "PersistentVolumeClaim"
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert mount["name"] == volume["name"]
    words = [word for name, all_ in read_dockerfile(DOCKERFILE) if name == "ENV" for word in all_]
    image = dict(word.split("=", 1) for word in words)
    assert Path(image["STATE_FILE"]).parent == Path(mount["mountPath"])
    assert "STATE_FILE" not in {one["name"] for one in container["env"]}
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    room = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30
    assert room > Settings().max_spool_size + Settings().max_results_size
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"]["type"] == "Recreate"
    assert pod["securityContext"]["fsGroup"] > 0
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With the command of this environment for the one that is installed later."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    command = unit_values("ExecStart")[0].split()[0]
    unit = tmp_path / UNIT.name
    here = str(Path(sys.executable).parent / Path(command).name)
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(command, here))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_prometheus_finds_the_proxy_and_the_alerts() -> None:
    """Targets are at the port by default, rule files exist, and their job is the one scraped."""
    prometheus = read_yaml(CONFIG / "prometheus" / "prometheus.yml")
    (scrape,) = prometheus["scrape_configs"]
    for config in scrape["static_configs"]:
        assert config["targets"] == [f"127.0.0.1:{DEFAULTS['PORT']}"]
    for name in prometheus["rule_files"]:
        rules = read_yaml(CONFIG / "prometheus" / name)["groups"]
        text = " ".join(rule["expr"] for group in rules for rule in group["rules"])
        assert set(re.findall(r'\bjob="(\w+)"', text)) == {scrape["job_name"]}


def test_nginx_accepts_the_configuration_of_the_benchmark(tmp_path: Path) -> None:
    """As scripts/bench-forward fills it in."""
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    template = Template((ROOT / "scripts" / "bench_nginx.conf").read_text(encoding="utf-8"))
    path = tmp_path / "nginx.conf"
    path.write_text(template.substitute(folder=tmp_path, port=1, upstream=2))
    done = subprocess.run(
        [nginx, "-t", "-c", path, "-p", tmp_path, "-e", tmp_path / "log"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    """setup.cfg says it; README, ruff and the oldest of the classifiers agree."""
    minimum = setup_cfg()["options"]["python_requires"].removeprefix(">=")
    assert minimum == min(supported_pythons(), key=lambda version: int(version[2:]))
    assert f"Python {minimum} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert ruff["target-version"] == f"py{minimum.replace('.', '')}"


def test_the_package_has_all_its_files() -> None:
    """What is no Python and belongs to the package is in package_data, or pip would leave it."""
    data = setup_cfg()["options.package_data"]
    included = {
        path
        for package, patterns in data.items()
        for pattern in patterns.split()
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    for path in (ROOT / "comfy_proxy").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert path in included, path
