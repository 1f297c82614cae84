"""Every setting: its environment variable, type, default, unit and meaning, in one table.

``VARIABLES`` is that table; a test compares the README's with it. Values come from the environment
and, where it has none, from a TOML file with the same names in lower case. All problems are
reported at once (:class:`~comfy_proxy.errors.SettingsError`).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yarl import URL

from comfy_proxy.addresses import (
    LOOPBACK,
    Network,
    comma_list,
    origin_problems,
    parse_networks,
    parse_origins,
    parse_root_path,
)
from comfy_proxy.errors import SettingsError
from comfy_proxy.setting_values import (
    directory,
    integer,
    milliseconds,
    one_of,
    path,
    some_of,
    true_or_false,
)

DEFAULT_INSTANCES = ("localhost:8188", "localhost:8189")
_HOST_VARIABLE = re.compile(r"COMFYUI_HOST_([1-9][0-9]{0,3})")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_LOG_LEVELS = ("error", "warn", "info", "debug")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration, checked; times in seconds, sizes in bytes. ``VARIABLES`` explains each.

    Build one with keyword arguments in code and tests, or with :func:`load_settings`.
    ``max_concurrent_jobs`` None means three for each instance. Raises SettingsError for values
    that do not go together.
    """

    instances: tuple[URL, ...] = field(
        default_factory=lambda: tuple(parse_instance(text) for text in DEFAULT_INSTANCES)
    )
    comfyui_timeout_s: float = 60.0
    max_connections_per_instance: int = 3
    health_check_interval_s: float = 30.0
    health_check_timeout_s: float = 0.3
    health_failure_threshold: int = 3
    hang_timeout_s: float = 30.0
    job_timeout_s: float = 300.0
    pending_timeout_s: float = 600.0
    max_concurrent_jobs: int | None = None
    max_pending_jobs: int = 1000
    affinity_patience_s: float | None = None
    retry_out_of_memory: bool = False
    routes_file: Path | None = None
    max_upload_size: int = 104_857_600
    max_results_size: int = 1_073_741_824
    max_spool_size: int = 4_294_967_296
    max_client_connections: int = 1000
    shutdown_timeout_s: float = 10.0
    log_level: str = "info"
    log_directory: Path | None = Path("logs")
    host: str = "127.0.0.1"
    port: int = 3000
    default_mode: str = "async"
    cors_origins: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    workflow_directory: Path | None = None
    shared_storage: frozenset[str] = frozenset()
    root_path: str | None = None
    trusted_proxies: tuple[Network, ...] = LOOPBACK

    def __post_init__(self) -> None:
        if problems := origin_problems(self.cors_origins, self.api_keys):
            raise SettingsError(problems)

    @property
    def concurrent_jobs(self) -> int:
        """Most jobs in processing at once, over all instances; the next ones wait as pending."""
        return self.max_concurrent_jobs or 3 * len(self.instances)

    def __repr__(self) -> str:
        hidden = "" if not self.api_keys else f", api_keys=<{len(self.api_keys)} hidden>"
        hosts = ", ".join(str(url) for url in self.instances)
        return f"<Settings {self.host}:{self.port} -> {hosts}{hidden}>"


def parse_instance(text: str) -> URL:
    """``host:port`` or an http(s) URL with an optional path prefix → URL without trailing slash.

    Raises ValueError with the reason.
    """
    text = text.strip()
    url = URL(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{text!r}: the scheme must be http or https")
    if url.raw_user is not None or url.raw_password is not None:
        raise ValueError("a user name or password in the address is not supported")
    if not url.host:
        raise ValueError(f"{text!r}: there is no host in it")
    if url.query_string or url.fragment:
        raise ValueError(f"{text!r}: a query or fragment makes no sense here")
    if url.port == 0:
        raise ValueError(f"{text!r}: nobody listens on port 0")
    return url.with_path(url.raw_path.rstrip("/"), encoded=True)


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One row of ``VARIABLES``: the variable ``name`` sets the attribute ``field`` of Settings.

    ``parse`` makes a value of the text or raises ValueError; ``default`` and ``help`` are words.
    """

    name: str
    field: str
    parse: Callable[[str], Any]
    default: str
    help: str


def _row(name: str, target: str, parse: Callable[[str], Any], default: str, text: str) -> Variable:
    return Variable(name=name, field=target, parse=parse, default=default, help=text)


def _shared_kinds(text: str) -> frozenset[str]:
    if text.strip().lower() == "auto":
        raise ValueError(
            "what instances share is no longer found out: say true, false (as without it), or some"
            " of input, output, temp"
        )
    return some_of("input", "output", "temp")(text)


VARIABLES: tuple[Variable, ...] = (
    _row("COMFYUI_TIMEOUT", "comfyui_timeout_s", milliseconds(1), "60000",
         "ms; longest silence of one of our jobs while it is executing"),
    _row("MAX_CONNECTIONS_PER_INSTANCE", "max_connections_per_instance", integer(1, 100), "3",
         "pooled WebSocket connections of jobs, each instance"),
    _row("HEALTH_CHECK_INTERVAL", "health_check_interval_s", milliseconds(10), "30000",
         "ms; period of the background probe"),
    _row("HEALTH_CHECK_TIMEOUT", "health_check_timeout_s", milliseconds(1), "300",
         "ms; of one probe, background and before each submission"),
    _row("HEALTH_FAILURE_THRESHOLD", "health_failure_threshold", integer(1, 1000), "3",
         "consecutive failures that open the circuit breaker"),
    _row("HANG_TIMEOUT", "hang_timeout_s", milliseconds(0), "30000",
         "ms without an answer after which an instance's work goes elsewhere; 0 = never"),
    _row("JOB_TIMEOUT", "job_timeout_s", milliseconds(1), "300000",
         "ms; how long a finished job is kept"),
    _row("PENDING_TIMEOUT", "pending_timeout_s", milliseconds(1), "600000",
         "ms; a job that no instance could take for that long fails with `no_instance`"),
    _row("MAX_CONCURRENT_JOBS", "max_concurrent_jobs", integer(1, 1000), "3 × instances",
         "jobs in processing at once, over all instances"),
    _row("MAX_PENDING_JOBS", "max_pending_jobs", integer(1, 1_000_000), "1000",
         "jobs waiting; one more is answered 503"),
    _row("AFFINITY_PATIENCE", "affinity_patience_s", milliseconds(0), "learned",
         "ms; how long a prompt may be overtaken by work whose models are loaded; 0: never"),
    _row("RETRY_OUT_OF_MEMORY", "retry_out_of_memory", true_or_false, "false",
         "`true` if clients' prompts that ran out of memory run once more, as jobs do"),
    _row("ROUTES_FILE", "routes_file", path, "none",
         "TOML with rows that say who answers routes of custom nodes"),
    _row("MAX_UPLOAD_SIZE", "max_upload_size", integer(1, 10**12), "104857600",
         "bytes; a larger body is answered 413"),
    _row("MAX_RESULTS_SIZE", "max_results_size", integer(1, 10**13), "1073741824",
         "bytes of finished pictures kept in memory; the oldest go first"),
    _row("MAX_SPOOL_SIZE", "max_spool_size", integer(1, 10**13), "4294967296",
         "bytes of pictures and prompts that have not ended, in sum; one more is answered 503"),
    _row("MAX_CLIENT_CONNECTIONS", "max_client_connections", integer(1, 1_000_000), "1000",
         "connections of clients, WebSockets included; one more is answered 503"),
    _row("SHUTDOWN_TIMEOUT", "shutdown_timeout_s", milliseconds(0), "10000",
         "ms; grace period for running jobs at shutdown"),
    _row("LOG_LEVEL", "log_level", one_of(*_LOG_LEVELS), "info", "error, warn, info or debug"),
    _row("LOG_DIRECTORY", "log_directory", path, "./logs",
         "where `combined.log` and `error.log` are written"),
    _row("HOST", "host", str.strip, "127.0.0.1", "address on which the proxy listens"),
    _row("PORT", "port", integer(0, 65535), "3000", "port on which the proxy listens"),
    _row("DEFAULT_MODE", "default_mode", one_of("async", "sync"), "async",
         "`sync` where old clients send no mode"),
    _row("CORS_ORIGINS", "cors_origins", parse_origins, "none",
         "comma list of foreign origins whose pages may use the proxy"),
    _row("API_KEYS", "api_keys", comma_list, "none", "comma list of keys; one is then required"),
    _row("WORKFLOW_DIRECTORY", "workflow_directory", directory, "none",
         "extra workflow templates, each an endpoint"),
    _row("SHARED_STORAGE", "shared_storage", _shared_kinds, "false",
         "directories that all instances have in common: `true` (input, output and temp), or a"
         " comma list of some, like `input,output`"),
    _row("ROOT_PATH", "root_path", parse_root_path, "none",
         "path under which another server shows the proxy, and which it takes off"),
    _row("TRUSTED_PROXIES", "trusted_proxies", parse_networks, "loopback",
         "comma list of addresses or networks whose `X-Forwarded-*` are believed"),
)  # fmt: skip


def load_settings(
    environ: Mapping[str, str] | None = None, config_file: Path | None = None
) -> Settings:
    """Settings from the environment (``os.environ`` if None) over an optional TOML file.

    An empty value counts as not set. Raises SettingsError with every problem found.
    """
    problems: list[str] = []
    file_values = _read_toml(config_file, problems) if config_file else {}
    environ = os.environ if environ is None else environ
    known = {row.name for row in VARIABLES}
    merged = {
        name: text
        for source in (file_values, environ)
        for name, text in source.items()
        if (name in known or name.startswith("COMFYUI_HOST_")) and text.strip()
    }
    values: dict[str, Any] = {}
    for row in VARIABLES:
        if row.name in merged:
            try:
                values[row.field] = row.parse(merged[row.name])
            except ValueError as error:
                problems.append(f"{row.name}: {error}")
    instances = _instances(merged, problems)
    if instances:
        values["instances"] = instances
    problems += origin_problems(values.get("cors_origins", ()), values.get("api_keys", ()))
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def _instances(merged: Mapping[str, str], problems: list[str]) -> tuple[URL, ...]:
    numbered: list[tuple[int, str, URL]] = []
    for name, text in merged.items():
        if not name.startswith("COMFYUI_HOST_"):
            continue
        match = _HOST_VARIABLE.fullmatch(name)
        if match is None:
            problems.append(f"{name}: instances are numbered, like COMFYUI_HOST_1")
            continue
        try:
            numbered.append((int(match[1]), name, parse_instance(text)))
        except ValueError as error:
            problems.append(f"{name}: {error}")
    numbered.sort(key=lambda entry: entry[0])
    seen: dict[URL, str] = {}
    for _, name, url in numbered:
        canonical = url.with_port(url.port)
        if url.host in _LOOPBACK_NAMES:  # all of them are this machine: one instance, not three
            canonical = canonical.with_host("localhost")
        if canonical in seen:
            problems.append(f"{name}: {url} is the same instance as {seen[canonical]}")
        seen.setdefault(canonical, name)
    return tuple(url for _, _, url in numbered)


def _read_toml(path: Path, problems: list[str]) -> dict[str, str]:
    """The file's values as text by variable name; what is wrong is added to ``problems``.

    As text, because ``VARIABLES`` parses text: the file and the environment obey one rule.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, RecursionError, ValueError) as error:  # ValueError: no UTF-8, no TOML
        problems.append(f"{path}: {error}")
        return {}
    known = {row.name for row in VARIABLES}
    values: dict[str, str] = {}
    for key, value in document.items():
        name = key.upper()
        if key != key.lower() or (name not in known and not name.startswith("COMFYUI_HOST_")):
            problems.append(f"{path}: unknown setting {key!r}")
        elif isinstance(value, list):
            values[name] = ",".join(str(item) for item in value)
        elif isinstance(value, dict):
            problems.append(f"{path}: {key} must be a number, a text or a list")
        else:
            values[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return values
