"""Every setting: its environment variable, type, default, unit and meaning, in one table.

``VARIABLES`` is that table; a test compares the README's with it. Values come from the environment
and, where it has none, from a TOML file with the same names in lower case. All problems are
reported at once (:class:`~comfy_proxy.errors.SettingsError`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
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
from comfy_proxy.allowed_hosts import AllowedHost, parse_allowed_hosts
from comfy_proxy.errors import SettingsError
from comfy_proxy.instance_settings import (
    DEFAULT_INSTANCES,
    is_numbered,
    parse_instance,
    read_instances,
)
from comfy_proxy.key_settings import key_problems, read_keys
from comfy_proxy.setting_file import read_toml
from comfy_proxy.setting_values import (
    directory,
    integer,
    milliseconds,
    one_of,
    path,
    some_of,
    true_or_false,
)
from comfy_proxy.tls import certificate_authority, tls_problems
from comfy_proxy.webhook_settings import (
    parse_secrets,
    webhook_problems,
)

__all__ = ["VARIABLES", "Settings", "Variable", "load_settings", "parse_instance"]

_LOG_LEVELS = ("error", "warn", "info", "debug")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration, checked; times in seconds, sizes in bytes. ``VARIABLES`` explains each.

    Build one with keyword arguments in code and tests, or with :func:`load_settings`.
    ``max_concurrent_jobs`` None means three for each instance; ``instance_names`` are in the order
    of ``instances``, an empty one is none, and those that lack at the end have none. Raises
    SettingsError for values that do not go together.
    """

    instances: tuple[URL, ...] = field(
        default_factory=lambda: tuple(parse_instance(text) for text in DEFAULT_INSTANCES)
    )
    instance_names: tuple[str, ...] = ()
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
    state_file: Path | None = None
    max_upload_size: int = 104_857_600
    max_results_size: int = 1_073_741_824
    max_spool_size: int = 4_294_967_296
    max_client_connections: int = 1000
    shutdown_timeout_s: float = 10.0
    log_level: str = "info"
    log_directory: Path | None = Path("logs")
    host: str = "127.0.0.1"
    port: int = 3000
    compress: bool = True
    default_mode: str = "async"
    cors_origins: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    comfyui_ca_file: Path | None = None
    workflow_directory: Path | None = None
    input_allowed_hosts: tuple[AllowedHost, ...] = ()
    shared_storage: frozenset[str] = frozenset()
    root_path: str | None = None
    trusted_proxies: tuple[Network, ...] = LOOPBACK
    webhook_allowed_hosts: tuple[AllowedHost, ...] = ()
    webhook_secrets: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        problems = origin_problems(self.cors_origins, self.api_keys)
        problems += webhook_problems(self.webhook_allowed_hosts, self.webhook_secrets)
        if problems:
            raise SettingsError(problems)

    def name_of(self, place: int) -> str | None:
        """What the operator calls the instance at ``place`` (from 0 on)."""
        return self.instance_names[place] or None if place < len(self.instance_names) else None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses of HOST; none stands for all that the machine has."""
        return comma_list(self.host)

    def __repr__(self) -> str:
        hidden = "" if not self.api_keys else f", api_keys=<{len(self.api_keys)} hidden>"
        hosts = ", ".join(str(url) for url in self.instances)
        return f"<Settings {self.host}:{self.port} -> {hosts}{hidden}>"


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
         "ms without an answer, or of running nothing while prompts wait, after which an"
         " instance's work goes elsewhere; 0 = never"),
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
    _row("STATE_FILE", "state_file", path, "none",
         "SQLite file with what is to survive a restart; without one a restart forgets it"),
    _row("MAX_UPLOAD_SIZE", "max_upload_size", integer(1, 10**12), "104857600",
         "bytes; a larger body is answered 413"),
    _row("MAX_RESULTS_SIZE", "max_results_size", integer(1, 10**13), "1073741824",
         "bytes of finished pictures kept in memory; the oldest go first"),
    _row("MAX_SPOOL_SIZE", "max_spool_size", integer(1, 10**13), "4294967296",
         "bytes of pictures and prompts that have not ended, in sum; one more is answered 503"),
    _row("MAX_CLIENT_CONNECTIONS", "max_client_connections", integer(1, 1_000_000), "1000",
         "connections of clients, WebSockets included; one more is answered 503"),
    _row("SHUTDOWN_TIMEOUT", "shutdown_timeout_s", milliseconds(0), "10000",
         "ms; grace period at shutdown for what was accepted"),
    _row("LOG_LEVEL", "log_level", one_of(*_LOG_LEVELS), "info", "error, warn, info or debug"),
    _row("LOG_DIRECTORY", "log_directory", path, "./logs",
         "where `combined.log` and `error.log` are written"),
    _row("HOST", "host", str.strip, "127.0.0.1",
         "address on which the proxy listens; several are separated by commas"),
    _row("PORT", "port", integer(0, 65535), "3000", "port on which the proxy listens"),
    _row("COMPRESS", "compress", true_or_false, "true",
         "`false` if the frontend's scripts and styles are to go out as ComfyUI sends them"),
    _row("DEFAULT_MODE", "default_mode", one_of("async", "sync"), "async",
         "`sync` where old clients send no mode and expect the picture in the answer"),
    _row("CORS_ORIGINS", "cors_origins", parse_origins, "none",
         "comma list of foreign origins whose pages may use the proxy"),
    _row("API_KEYS", "api_keys", comma_list, "none", "comma list of keys; one is then required"),
    _row("API_KEYS_FILE", "api_keys_file", path, "none",
         "file of further keys, one a line; `#` begins a comment"),
    _row("TLS_CERT", "tls_cert", path, "none",
         "PEM; certificate with which the proxy speaks https, and its chain"),
    _row("TLS_KEY", "tls_key", path, "none", "PEM; its key, unless that stands in `TLS_CERT`"),
    _row("COMFYUI_CA_FILE", "comfyui_ca_file", certificate_authority, "none",
         "PEM; who signs certificates of `https` instances, besides those the system trusts"),
    _row("WORKFLOW_DIRECTORY", "workflow_directory", directory, "none",
         "extra workflow templates, each an endpoint"),
    _row("INPUT_ALLOWED_HOSTS", "input_allowed_hosts", parse_allowed_hosts, "none",
         "comma list of hosts from which jobs may name their files by a URL: `host`, `host:port`"
         " or `*.example.com`"),
    _row("SHARED_STORAGE", "shared_storage", _shared_kinds, "false",
         "directories that all instances have in common: `true` (input, output and temp), or a"
         " comma list of some, like `input,output`"),
    _row("ROOT_PATH", "root_path", parse_root_path, "none",
         "path under which another server shows the proxy, and which it takes off"),
    _row("TRUSTED_PROXIES", "trusted_proxies", parse_networks, "loopback",
         "comma list of addresses or networks whose `X-Forwarded-*` are believed"),
    _row("WEBHOOK_ALLOWED_HOSTS", "webhook_allowed_hosts", parse_allowed_hosts, "none",
         "comma list of hosts to which webhooks may be sent: `host`, `host:port`, `*.example.com`"),
    _row("WEBHOOK_SECRET", "webhook_secrets", parse_secrets, "none",
         "signs webhooks: `whsec_` and base64 of 24 to 64 bytes; several while it is changed"),
)  # fmt: skip


def load_settings(
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """Settings from ``options`` (of the command line, by variables' names) over the environment
    (``os.environ`` if None) over an optional TOML file.

    An empty value counts as not set. If ``options`` name an instance, they name all instances.
    Raises SettingsError with every problem found.
    """
    problems: list[str] = []
    known = {row.name for row in VARIABLES}
    file_values = read_toml(config_file, known, problems) if config_file else {}
    environ = os.environ if environ is None else environ
    merged = _merged(known, file_values, environ, options)
    values: dict[str, Any] = {}
    for row in VARIABLES:
        if row.name in merged:
            try:
                values[row.field] = row.parse(merged[row.name])
            except ValueError as error:
                problems.append(f"{row.name}: {error}")
    values |= read_instances(merged, problems)
    values["api_keys"] = _keys(values, problems)
    problems += origin_problems(values.get("cors_origins", ()), values["api_keys"])
    if not any(problem.startswith("WEBHOOK_SECRET") for problem in problems):
        problems += webhook_problems(
            values.get("webhook_allowed_hosts", ()), values.get("webhook_secrets", ())
        )
    problems += tls_problems(values.get("tls_cert"), values.get("tls_key"))
    if not any(problem.startswith("API_KEYS") for problem in problems):
        host = values.get("host", Settings.host)
        problems += key_problems(host, values["api_keys"], environ, known)
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def _merged(known: Collection[str], *sources: Mapping[str, str]) -> dict[str, str]:
    """What is set; a later source wins, and if the last one names an instance it names all."""
    *others, options = sources
    if any(map(is_numbered, options)):
        others = [{name: text for name, text in one.items() if name in known} for one in others]
    return {
        name: text
        for source in (*others, options)
        for name, text in source.items()
        if (name in known or is_numbered(name)) and text.strip()
    }


def _keys(values: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    """Those of API_KEYS, then those of API_KEYS_FILE, each once."""
    keys: list[str] = [*values.get("api_keys", ())]
    if (path := values.get("api_keys_file")) is not None:
        try:
            keys += read_keys(path)
        except ValueError as error:
            problems.append(f"API_KEYS_FILE: {error}")
    return tuple(dict.fromkeys(keys))
