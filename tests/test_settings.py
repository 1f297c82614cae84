"""Every setting from the environment and from TOML, every problem at once."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from comfy_proxy.addresses import LOOPBACK
from comfy_proxy.allowed_hosts import parse_allowed_hosts
from comfy_proxy.errors import SettingsError
from comfy_proxy.settings import VARIABLES, Settings, load_settings, parse_instance

# name, text, attribute, value
VALUES: list[tuple[str, str, str, Any]] = [
    ("COMFYUI_TIMEOUT", "1500", "comfyui_timeout_s", 1.5),
    ("MAX_CONNECTIONS_PER_INSTANCE", "5", "max_connections_per_instance", 5),
    ("HEALTH_CHECK_INTERVAL", "10000", "health_check_interval_s", 10.0),
    ("HEALTH_CHECK_TIMEOUT", "500", "health_check_timeout_s", 0.5),
    ("HEALTH_FAILURE_THRESHOLD", "2", "health_failure_threshold", 2),
    ("HANG_TIMEOUT", "0", "hang_timeout_s", 0.0),
    ("JOB_TIMEOUT", "60000", "job_timeout_s", 60.0),
    ("PENDING_TIMEOUT", "30000", "pending_timeout_s", 30.0),
    ("MAX_CONCURRENT_JOBS", "9", "max_concurrent_jobs", 9),
    ("MAX_PENDING_JOBS", "10", "max_pending_jobs", 10),
    ("AFFINITY_PATIENCE", "0", "affinity_patience_s", 0.0),
    ("RETRY_OUT_OF_MEMORY", "TRUE", "retry_out_of_memory", True),
    ("ROUTES_FILE", "routes.toml", "routes_file", Path("routes.toml")),
    ("STATE_FILE", "state.sqlite", "state_file", Path("state.sqlite")),
    ("MAX_UPLOAD_SIZE", "1000", "max_upload_size", 1000),
    ("MAX_RESULTS_SIZE", "2000", "max_results_size", 2000),
    ("MAX_SPOOL_SIZE", "3000", "max_spool_size", 3000),
    ("MAX_CLIENT_CONNECTIONS", "7", "max_client_connections", 7),
    ("SHUTDOWN_TIMEOUT", "0", "shutdown_timeout_s", 0.0),
    ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ("LOG_DIRECTORY", "/var/log/comfy", "log_directory", Path("/var/log/comfy")),
    ("HOST", "0.0.0.0", "host", "0.0.0.0"),
    ("PORT", "8080", "port", 8080),
    ("COMPRESS", "false", "compress", False),
    ("DEFAULT_MODE", "sync", "default_mode", "sync"),
    ("CORS_ORIGINS", "https://a.example, *", "cors_origins", ("https://a.example", "*")),
    ("API_KEYS", "one, two,", "api_keys", ("one", "two")),
    ("WORKFLOW_DIRECTORY", "/", "workflow_directory", Path("/")),
    ("INPUT_ALLOWED_HOSTS", "Files.Example, 10.0.0.1:8000,*.cdn.example,",
     "input_allowed_hosts", parse_allowed_hosts("files.example,10.0.0.1:8000,*.cdn.example")),
    ("SHARED_STORAGE", "Input, output", "shared_storage", frozenset({"input", "output"})),
    ("ROOT_PATH", "/user/a/proxy/3000/", "root_path", "/user/a/proxy/3000"),
    ("TRUSTED_PROXIES", "loopback, 10.0.0.0/8", "trusted_proxies",
     (*LOOPBACK, ip_network("10.0.0.0/8"))),
    ("WEBHOOK_SECRET", f"whsec_{'a2V5' * 8}", "webhook_secrets", (b"key" * 8,)),
]  # fmt: skip
OF_FILES = ("API_KEYS_FILE", "TLS_CERT", "TLS_KEY", "COMFYUI_CA_FILE")
"""Their files are read at once: ``test_key_settings.py`` and ``test_tls.py`` have some."""
IN_PAIRS = ("WEBHOOK_ALLOWED_HOSTS",)
"""Not without another one: ``test_webhook_settings.py``."""
BAD = [
    *((name, "/no/such/file") for name in OF_FILES),
    ("COMFYUI_TIMEOUT", "soon"),
    ("COMFYUI_TIMEOUT", "0"),
    ("COMFYUI_TIMEOUT", "1.5"),
    ("HEALTH_CHECK_INTERVAL", "-1"),
    ("MAX_CONCURRENT_JOBS", "0"),
    ("PORT", "70000"),
    ("LOG_LEVEL", "loud"),
    ("COMPRESS", "gzip"),
    ("DEFAULT_MODE", "maybe"),
    ("CORS_ORIGINS", "app.example"),
    ("CORS_ORIGINS", "https://app.example/path"),
    ("WORKFLOW_DIRECTORY", "/no/such/directory"),
    ("CORS_ORIGINS", "null"),
    ("INPUT_ALLOWED_HOSTS", "https://files.example"),
    ("INPUT_ALLOWED_HOSTS", "*"),
    ("INPUT_ALLOWED_HOSTS", "files.example/path"),
    ("SHARED_STORAGE", "yes"),
    ("SHARED_STORAGE", "auto"),
    ("SHARED_STORAGE", "input,models"),
    ("SHARED_STORAGE", "true,input"),
    ("SHARED_STORAGE", ","),
    ("AFFINITY_PATIENCE", "learned"),
    ("RETRY_OUT_OF_MEMORY", "1"),
    ("WEBHOOK_SECRET", "short"),
    ("WEBHOOK_ALLOWED_HOSTS", "*"),
    ("ROOT_PATH", "comfy"),
    ("ROOT_PATH", "//evil.example"),
    ("TRUSTED_PROXIES", "nginx"),
    ("COMFYUI_HOST_1", "ftp://gpu"),
    ("COMFYUI_HOST_1", "gpu:99999"),
    ("COMFYUI_HOST_1", "gpu:0"),
    ("COMFYUI_HOST_1", "http://"),
    ("COMFYUI_HOST_1", "gpu:8188?x=1"),
    ("COMFYUI_HOST_1", "gpu:8188#x"),
    ("COMFYUI_HOST_ONE", "gpu:8188"),
    ("COMFYUI_HOST_0", "gpu:8188"),
    ("COMFYUI_NAME_1", "7"),
    ("COMFYUI_NAME_1", "x" * 65),
    ("COMFYUI_NAME_1", "a\nb"),
    ("COMFYUI_NAME_3", "of nobody"),
    ("COMFYUI_NAME_LEFT", "left"),
]


def problems(environ: dict[str, str], config_file: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, config_file)
    return caught.value.problems


def written(directory: Path, text: str) -> Path:
    path = directory / "comfy-proxy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def hosts(settings: Settings) -> list[str]:
    return [str(url) for url in settings.instances]


def test_defaults_are_the_tables() -> None:
    """With nothing set, each value is what its row of the table says, and so are Settings()."""
    settings = load_settings({})
    assert settings == Settings()
    assert hosts(settings) == ["http://localhost:8188", "http://localhost:8189"]
    for row in VARIABLES:
        value = getattr(settings, row.field)
        if row.default in ("none", "learned"):
            assert value in (None, ())
        elif row.name == "MAX_CONCURRENT_JOBS":
            assert value is None
        else:
            assert value == row.parse(row.default)


def test_every_variable_has_a_case_here() -> None:
    """A new row of the table wants a new case."""
    rows = [row.name for row in VARIABLES if row.name not in (*OF_FILES, *IN_PAIRS)]
    assert [name for name, *_ in VALUES] == rows
    assert all(row.help for row in VARIABLES)


@pytest.mark.parametrize(("name", "text", "field", "value"), VALUES)
def test_from_the_environment(name: str, text: str, field: str, value: object) -> None:
    """Each variable is read, in the unit of its name."""
    assert getattr(load_settings({name: text}), field) == value


@pytest.mark.parametrize(("name", "text", "field", "value"), VALUES)
def test_from_toml(name: str, text: str, field: str, value: object, tmp_path: Path) -> None:
    """The file takes the same names in lower case, numbers with or without quotes."""
    path = written(tmp_path, f'{name.lower()} = "{text}"')
    assert getattr(load_settings({}, path), field) == value
    if text.isdecimal():
        path = written(tmp_path, f"{name.lower()} = {text}")
        assert getattr(load_settings({}, path), field) == value


def test_true_and_false_in_toml(tmp_path: Path) -> None:
    """They are words of a file like any other, where a setting knows them."""
    for word in ("true", "false"):
        path = written(tmp_path, f"shared_storage = {word}")
        shared = {"input", "output", "temp"} if word == "true" else set()
        assert load_settings({}, path).shared_storage == shared
        path = written(tmp_path, f"retry_out_of_memory = {word}")
        assert load_settings({}, path).retry_out_of_memory is (word == "true")


def test_lists_in_toml(tmp_path: Path) -> None:
    """A list may be written as one."""
    text = 'api_keys = ["one", "two"]\ncors_origins = ["https://a.example"]'
    path = written(tmp_path, f'{text}\nshared_storage = ["temp", "input"]')
    settings = load_settings({}, path)
    assert settings.shared_storage == {"input", "temp"}
    assert settings.api_keys == ("one", "two")
    assert settings.cors_origins == ("https://a.example",)


def test_the_environment_wins(tmp_path: Path) -> None:
    """Over the file, name by name; what only the file has stays."""
    path = written(tmp_path, 'port = 1\nlog_level = "warn"\ncomfyui_host_1 = "file:1"')
    settings = load_settings({"PORT": "2", "COMFYUI_HOST_1": "environ:1"}, path)
    assert (settings.port, settings.log_level) == (2, "warn")
    assert hosts(settings) == ["http://environ:1"]


def test_empty_counts_as_not_set(tmp_path: Path) -> None:
    """An empty variable changes nothing, neither a default nor what the file says."""
    empty = {row.name: " " for row in VARIABLES} | {"COMFYUI_HOST_1": "", "COMFYUI_HOST_2": ""}
    assert load_settings(empty) == Settings()
    assert load_settings({"PORT": ""}, written(tmp_path, "port = 4")).port == 4
    path = written(tmp_path, 'workflow_directory = ""\nlog_directory = ""\napi_keys = []')
    assert load_settings({}, path) == Settings()


def test_os_environ_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments the process's environment is read; other programs' names are ignored."""
    monkeypatch.setenv("PORT", "4321")
    monkeypatch.setenv("COMFYUI_MODEL_PATH", "ignored")
    assert load_settings().port == 4321


@pytest.mark.parametrize(("name", "text"), BAD)
def test_bad_values(name: str, text: str) -> None:
    """Each problem is one line that begins with the name of the variable."""
    (problem,) = problems({name: text})
    assert problem.startswith(f"{name}: ")
    assert "\n" not in problem


@pytest.mark.parametrize("text", ["auto", "AUTO", "yes", "input,models"])
def test_what_shared_storage_may_be_is_told(text: str) -> None:
    """Each problem has the words that are allowed; the former default is told to be gone."""
    (problem,) = problems({"SHARED_STORAGE": text})
    for word in ("true", "false", "input", "output", "temp"):
        assert word in problem
    assert ("no longer found out" in problem) == (text.lower() == "auto")


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Nobody has to start five times to hear of five mistakes."""
    path = written(tmp_path, 'job_timeout = "x"\nprot = 1\nmax_pending_jobs = true')
    environ = {"PORT": "x", "LOG_LEVEL": "x", "COMFYUI_HOST_1": "a:1", "COMFYUI_HOST_2": "a:1"}
    told = problems(environ, path)
    assert len(told) == 6
    for name in ("prot", "MAX_PENDING_JOBS", "JOB_TIMEOUT", "PORT", "LOG_LEVEL", "COMFYUI_HOST_2"):
        assert sum(name in problem for problem in told) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("port = = 1", "comfy-proxy.toml: "),
        ("PORT = 1", "unknown setting 'PORT'"),
        ("[server]\nport = 1", "unknown setting 'server'"),
        ("port = 1.5", "PORT: '1.5' is not a whole number"),
        ("[port]\nx = 1", "port must be a number"),
    ],
)
def test_bad_files(text: str, problem: str, tmp_path: Path) -> None:
    """A file that cannot be understood is a problem like any other."""
    assert problem in problems({}, written(tmp_path, text))[0]


def test_unreadable_files(tmp_path: Path) -> None:
    """So is one that is missing, or no text."""
    assert "missing.toml" in problems({}, tmp_path / "missing.toml")[0]
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    assert "binary.toml" in problems({}, path)[0]


def test_any_number_of_instances() -> None:
    """In the order of their numbers, gaps allowed."""
    environ = {"COMFYUI_HOST_10": "c:1", "COMFYUI_HOST_2": "a:1", "COMFYUI_HOST_3": "b:1"}
    settings = load_settings(environ)
    assert hosts(settings) == ["http://a:1", "http://b:1", "http://c:1"]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:8188", "http://localhost:8188"),
        (" gpu2 ", "http://gpu2"),
        ("https://gpu2/comfy/", "https://gpu2/comfy"),
        ("https://gpu2:8443/a%20b", "https://gpu2:8443/a%20b"),
        ("http://[::1]:8188/", "http://[::1]:8188"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    """``host:port`` or a full URL, https and a path prefix included; no slash at the end."""
    assert parse_instance(text) == URL(url, encoded=True)
    assert not str(parse_instance(text)).endswith("/")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("gpu:8188", "http://gpu:8188/"),
        ("localhost:8188", "127.0.0.1:8188"),
        ("localhost:8188", "LOCALHOST:8188"),
        ("[::1]:8188", "localhost:8188"),
        ("0.0.0.0:8188", "localhost:8188"),
        ("[::]:8188", "localhost:8188"),
        ("localhost.:8188", "localhost:8188"),
        ("[::ffff:127.0.0.1]:8188", "localhost:8188"),
        ("127.1:8188", "localhost:8188"),
        ("0x7f.1:8188", "localhost:8188"),
        ("gpu.example.:8188", "GPU.example:8188"),
        ("[fd00::0:7]:8188", "[FD00::7]:8188"),
        ("http://gpu", "http://gpu:80"),
        ("https://gpu/comfy", "https://gpu:443/comfy/"),
    ],
)
def test_the_same_instance_twice(one: str, two: str) -> None:
    """However it is spelt, the same instance twice would be counted twice: a problem."""
    (problem,) = problems({"COMFYUI_HOST_1": one, "COMFYUI_HOST_2": two})
    assert problem.startswith("COMFYUI_HOST_2: ")
    assert problem.endswith("is the same instance as COMFYUI_HOST_1")


def test_neighbours_are_not_the_same() -> None:
    """Another port, prefix or scheme is another instance."""
    texts = ["gpu:1", "gpu:2", "gpu:1/a", "https://gpu:1", "localhost:1"]
    environ = {f"COMFYUI_HOST_{number}": text for number, text in enumerate(texts, start=1)}
    assert len(load_settings(environ).instances) == 5


def test_no_secret_is_shown() -> None:
    """Neither keys in a repr nor a password in an address's error reach a log."""
    settings = load_settings({"API_KEYS": "hunter2,swordfish", "COMFYUI_HOST_1": "gpu:1"})
    assert repr(settings) == "<Settings 127.0.0.1:3000 -> http://gpu:1, api_keys=<2 hidden>>"
    for text in ("al:hunter2@gpu:1", "https://al:hunter2@gpu"):
        (problem,) = problems({"COMFYUI_HOST_1": text})
        assert "hunter2" not in problem


def test_frozen() -> None:
    """Nobody changes settings at run time."""
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


def test_names_belong_to_the_number_of_their_address() -> None:
    """The numbers may have gaps, and not every instance need have a name."""
    named = {"COMFYUI_HOST_2": "a", "COMFYUI_HOST_5": "b", "COMFYUI_HOST_7": "c"}
    settings = load_settings({**named, "COMFYUI_NAME_5": " right "})
    assert [settings.name_of(place) for place in range(3)] == [None, "right", None]
    by_default = load_settings({"COMFYUI_NAME_2": "right"})
    assert [by_default.name_of(place) for place in range(2)] == [None, "right"]
    assert [Settings().name_of(place) for place in range(2)] == [None, None]


def test_two_instances_have_not_the_same_name() -> None:
    """Or nobody could say which of them is meant."""
    (told,) = problems({"COMFYUI_NAME_1": "gpu", "COMFYUI_NAME_2": "gpu"})
    assert "COMFYUI_NAME_2" in told
    assert "COMFYUI_HOST_1" in told
