"""``comfy-proxy status``: the instances, what runs on them, and what waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from comfy_proxy.cli.command import EXIT_DONE, EXIT_FAILED, Command, Values, option
from comfy_proxy.cli.proxy_address import OPTIONS

if TYPE_CHECKING:
    from rich.console import RenderableType

Snapshot = Mapping[str, Any]
_INSTANCES: Final = ("instance", "state", "work", "jobs", "models")
_JOBS: Final = ("job", "workflow", "status", "at")
_SHOWN_JOBS = 15


def _status(values: Values) -> int:
    from comfy_proxy.cli.snapshots import one_snapshot, watch
    from comfy_proxy.cli.tables import on_terminal, say_table
    from comfy_proxy.cli.talk import AT_ONCE, talk
    from comfy_proxy.client.policy import Policy

    with talk(values, Policy()) as client:
        now = client.perform(one_snapshot(AT_ONCE))
        if values.watch:
            show = _live if on_terminal() else _lines
            show(client.iterate(watch(client.policy)))
            return EXIT_DONE
    print(headline(now))
    say_table(_INSTANCES, instance_rows(now))
    if now["jobs"]:
        print()
        say_table(_JOBS, job_rows(now))
    return EXIT_DONE if any(map(_takes_work, now["instances"])) else EXIT_FAILED


def _live(snapshots: Iterable[Snapshot]) -> None:
    """One screen that changes, until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False) as live:
        for snapshot in snapshots:
            live.update(_screen(snapshot), refresh=True)


def _lines(snapshots: Iterable[Snapshot]) -> None:
    """A line for each change."""
    before = ""
    for snapshot in snapshots:
        line = "; ".join([headline(snapshot, times=False), *map(_in_a_word, snapshot["instances"])])
        if line != before:
            print(f"{snapshot['timestamp']} {line}")
        before = line


def _screen(snapshot: Snapshot) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape

    from comfy_proxy.cli.tables import drawn

    return Group(
        escape(headline(snapshot)),
        drawn(_INSTANCES, instance_rows(snapshot)),
        "",
        drawn(_JOBS, job_rows(snapshot)),
    )


def headline(snapshot: Snapshot, *, times: bool = True) -> str:
    """``healthy; 2 jobs run (at most 6), 3 wait; 40 completed, 1 failed; the proxy is up for 3
    hours``."""
    queue, totals = snapshot["queue"], snapshot["totals"]
    parts = [
        snapshot["status"],
        f"{queue['processing']} jobs run (at most {queue['max_concurrent_jobs']}),"
        f" {queue['pending']} wait",
        f"{totals['completed']} completed, {totals['failed']} failed",
    ]
    if times:
        parts.append(f"the proxy is up for {_in_words(snapshot['uptime_seconds'])}")
    return "; ".join(parts)


def instance_rows(snapshot: Snapshot) -> list[tuple[object, ...]]:
    return [
        (
            f"{one['id']} {one['name'] or one['host']}",
            _state(one),
            f"{one['load']} prompts",
            ", ".join(f"{job['type']} {job['progress_percentage']:.0f} %" for job in one["jobs"]),
            ", ".join(map(str, one["models_loaded"])),
        )
        for one in snapshot["instances"]
    ]


def job_rows(snapshot: Snapshot) -> list[tuple[object, ...]]:
    return [
        (
            job["job_id"],
            job["type"],
            f"failed: {job['error']['message']}" if job["error"] else job["status"],
            job["comfyui_instance"],
        )
        for job in snapshot["jobs"][:_SHOWN_JOBS]
    ]


def _takes_work(instance: Snapshot) -> bool:
    in_use = not (instance["draining"] or instance["stands_still"])
    return instance["status"] == "healthy" and in_use


def _in_a_word(instance: Snapshot) -> str:
    return f"{instance['name'] or instance['host']} {_state(instance)} {instance['load']}"


def _state(instance: Snapshot) -> str:
    if instance["status"] != "healthy":
        return f"unhealthy: {instance['last_error']}" if instance["last_error"] else "unhealthy"
    if instance["stands_still"]:
        return "stands still: restart it"
    if instance["leaving"]:
        return "leaving"
    return "draining" if instance["draining"] else "healthy"


def _in_words(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


COMMANDS = (
    Command(
        name="status",
        help="the instances, what runs on them, and what waits",
        more="The exit code is 1 if no instance takes work.",
        run=_status,
        extra="cli",
        parameters=(option("watch", "show each change, until Ctrl-C", type=bool), *OPTIONS),
    ),
)
