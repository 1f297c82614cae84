"""The figures as Prometheus' metric families: names, units and help, in one place.

Labels have few values, none of which a client chooses. ``comfyui_instance`` is a ``host:port`` of
the configuration (Prometheus sets its own label ``instance`` to the proxy), ``type`` a workflow's
name, ``code`` one of ``errors.py``, ``policy`` one of ``gateway/routes.py``, ``ours`` or ``other``.
"""

from __future__ import annotations

from collections.abc import Iterator

from comfy_proxy.metrics.family import Family, counter, gauge, histogram, one
from comfy_proxy.metrics.figures import Figures
from comfy_proxy.metrics.instance_figures import CIRCUIT_STATES
from comfy_proxy.metrics.live import LiveState
from comfy_proxy.metrics.records import PromptEvent
from comfy_proxy.version import __version__

_HOST = "comfyui_instance"


def families(figures: Figures) -> Iterator[Family]:
    """All families, as they stand now."""
    live = figures.live()
    yield gauge("build_info", "The version that runs.", "version", [((__version__,), 1)])
    yield gauge(
        "start_time_seconds", "When it started, since the epoch.", "",
        [((), figures.started_at.timestamp())],
    )  # fmt: skip
    yield from _jobs(figures, live)
    yield from _prompts(figures)
    yield from _http(figures)
    yield from _static_text(live)
    yield from _sockets(live)
    yield from _instances(figures)
    yield from _instances_now(live)
    yield from _models(figures, live)
    yield from _pools(figures, live)
    yield from _logs(figures)
    yield from _loop(figures)
    yield from _webhooks(figures, live)


def _jobs(figures: Figures, live: LiveState) -> Iterator[Family]:
    jobs = figures.jobs
    yield counter("jobs_accepted", "Jobs accepted.", "type", one(jobs.accepted))
    yield counter(
        "jobs_finished", "Jobs that ended, by outcome and where.", f"type outcome {_HOST}",
        [((name, str(outcome), host), n) for (name, outcome, host), n in jobs.finished.items()],
    )  # fmt: skip
    yield counter("job_errors", "Failed jobs by error code.", "type code", jobs.errors.items())
    yield counter(
        "job_retries", "Attempts beyond the first, of jobs that ended.", "type", one(jobs.retries)
    )
    yield counter("job_moves", "Waiting jobs moved to another instance.", "type", one(jobs.moves))
    yield histogram(
        "job_duration_seconds", "From the start of the execution, of completed jobs.",
        f"type {_HOST}",
        jobs.duration_histograms.items(),
    )  # fmt: skip
    yield histogram(
        "job_wait_seconds", "From acceptance to the beginning of the execution.", "type",
        one(jobs.wait_histograms),
    )  # fmt: skip
    yield gauge(
        "job_estimate_error_ratio", "|told - true| / true of the seconds told at acceptance.",
        "type quantile", jobs.estimate_errors.quantiles(),
    )  # fmt: skip
    yield gauge(
        "jobs", "Unfinished jobs now.", "state",
        [(("pending",), live.pending_jobs), (("processing",), live.processing_jobs)],
    )  # fmt: skip


def _prompts(figures: Figures) -> Iterator[Family]:
    helps = {
        PromptEvent.FORWARDED: "Clients' prompts that the instance has taken.",
        PromptEvent.MOVED: "Clients' waiting prompts moved to the instance.",
        PromptEvent.PASSED_OVER: "How often the instance could not take a client's prompt.",
    }
    for event, text in helps.items():
        values = [
            ((host,), count)
            for (what, host), count in figures.prompts.events.items()
            if what is event
        ]
        yield counter(f"prompts_{event}", text, _HOST, values)
    prompts = figures.prompts
    yield counter(
        "prompts_finished", "Clients' prompts that ended, by outcome and where.",
        f"outcome {_HOST}", [((str(end), host), n) for (end, host), n in prompts.ends.items()],
    )  # fmt: skip
    yield histogram(
        "prompt_duration_seconds", "Execution time of completed prompts of clients.", _HOST,
        one(prompts.duration_histograms),
    )  # fmt: skip
    yield histogram(
        "prompt_wait_seconds", "From the acceptance of a client's prompt to its execution.", "",
        [((), prompts.wait_histogram)],
    )  # fmt: skip


def _http(figures: Figures) -> Iterator[Family]:
    http = figures.http
    yield counter(
        "http_requests", "Requests answered; 499: the client left.", "method policy status",
        http.requests.items(),
    )  # fmt: skip
    yield histogram(
        "http_time_to_first_byte_seconds", "Until an answer began; waits asked for are in it.",
        "policy",
        one(http.histograms),
    )  # fmt: skip
    received, sent = "Bytes of request bodies and frames.", "Bytes of answers' bodies and frames."
    yield counter("http_received_bytes", received, "policy", one(http.received))
    yield counter("http_sent_bytes", sent, "policy", one(http.sent))


def _static_text(live: LiveState) -> Iterator[Family]:
    text = live.static_text
    yield counter(
        "static_text_answers", "Answers with the frontend's text, by where it came from.", "how",
        [(("packed",), text.packed), (("kept",), text.kept), (("unchanged",), text.unchanged)],
    )  # fmt: skip
    saved = "Bytes of the frontend's text that were not sent, as it was compressed."
    yield counter("static_text_saved_bytes", saved, "", [((), text.saved_bytes)])


def _sockets(live: LiveState) -> Iterator[Family]:
    sockets = live.sockets
    yield gauge("websocket_clients", "Clients' open WebSockets.", "", [((), sockets.clients)])
    yield counter(
        "websocket_frames", "Frames passed on.", "direction",
        [
            (("to_client",), sockets.frames_to_client),
            (("to_instance",), sockets.frames_to_instance),
        ],
    )  # fmt: skip
    yield counter(
        "websocket_previews_dropped", "Previews that a slow client did not get.", "",
        [((), sockets.previews_dropped)],
    )  # fmt: skip
    yield counter(
        "websocket_slow_clients", "Clients disconnected for reading too slowly.", "",
        [((), sockets.slow_clients)],
    )  # fmt: skip


def _instances(figures: Figures) -> Iterator[Family]:
    at_instances = figures.instances
    yield counter(
        "instance_circuit_changes", "Changes of the circuit breaker to a state.", f"{_HOST} state",
        at_instances.circuit_changes.items(),
    )  # fmt: skip
    yield counter(
        "instance_requests", "Exchanges with the instance, by who ended them how.",
        f"{_HOST} kind verdict", at_instances.attempts.items(),
    )  # fmt: skip
    yield histogram(
        "instance_request_duration_seconds", "Duration of the exchanges.", f"{_HOST} kind",
        at_instances.attempt_histograms.items(),
    )  # fmt: skip


def _instances_now(live: LiveState) -> Iterator[Family]:
    each = live.instances
    yield gauge("instance_up", "1 if healthy.", _HOST, [((i.host,), i.healthy) for i in each])
    yield gauge(
        "instance_info", "1; the number and the name that it has here.", f"{_HOST} id name",
        [((i.host, i.id, i.name or ""), 1) for i in each],
    )  # fmt: skip
    yield gauge(
        "instance_draining", "1 if an operator takes it out of use.", _HOST,
        [((i.host,), i.drained) for i in each],
    )  # fmt: skip
    yield gauge(
        "instance_stands_still", "1 if it answers and runs nothing.", _HOST,
        [((i.host,), i.stands_still) for i in each],
    )  # fmt: skip
    yield gauge(
        "instance_circuit_state", "1 for the state of the circuit breaker.", f"{_HOST} state",
        [((i.host, state), i.circuit == state) for i in each for state in CIRCUIT_STATES],
    )  # fmt: skip
    yield gauge(
        "instance_active_jobs", "Prompts placed there by this proxy and not ended.", _HOST,
        [((i.host,), i.active_jobs) for i in each],
    )  # fmt: skip
    yield gauge(
        "instance_load", "Prompts that wait or run there, whoever gave them.", _HOST,
        [((i.host,), i.load) for i in each],
    )  # fmt: skip
    yield gauge(
        "instance_check_duration_seconds", "Duration of the last check that passed.", _HOST,
        [((i.host,), i.response_time_s) for i in each if i.response_time_s is not None],
    )  # fmt: skip


def _models(figures: Figures, live: LiveState) -> Iterator[Family]:
    loads = figures.loads
    yield counter("model_loads", "Prompts whose models had to be loaded.", _HOST, one(loads.paid))
    yield counter(
        "model_loads_avoided", "Prompts whose models were loaded already.", _HOST,
        one(loads.avoided),
    )  # fmt: skip
    yield counter(
        "model_load_seconds", "What loading models took, about.", _HOST, one(loads.seconds)
    )
    yield gauge(
        "models_loaded", "Models in its memory, as far as can be told.", _HOST,
        [((i.host,), len(i.models_loaded)) for i in live.instances],
    )  # fmt: skip


def _pools(figures: Figures, live: LiveState) -> Iterator[Family]:
    each = live.instances
    yield gauge(
        "pool_connections", "Pooled WebSockets of jobs.", f"{_HOST} state",
        [
            ((i.host, state), count)
            for i in each
            for state, count in (("open", i.pool_open), ("in_use", i.pool_in_use))
        ],
    )  # fmt: skip
    yield gauge(
        "pool_waiting", "Jobs that wait for a pooled WebSocket.", _HOST,
        [((i.host,), i.pool_waiting) for i in each],
    )  # fmt: skip
    yield histogram(
        "pool_wait_seconds", "How long jobs waited for a pooled WebSocket.", _HOST,
        one(figures.instances.pool_histograms),
    )  # fmt: skip


def _logs(figures: Figures) -> Iterator[Family]:
    logs = figures.logs
    dropped = logs.dropped if logs else 0
    yield counter("log_lines_dropped", "Log lines lost.", "", [((), dropped)])
    lines = [((level,), count) for level, count in logs.written.items()] if logs else []
    yield counter("log_lines", "Log lines written.", "level", lines)


def _loop(figures: Figures) -> Iterator[Family]:
    lags = [((), figures.loop_lags)] if figures.loop_lags else []
    text = "By how much a timer of the event loop fires late, a hundred times a second."
    yield histogram("event_loop_lag_seconds", text, "", lags)


def _webhooks(figures: Figures, live: LiveState) -> Iterator[Family]:
    webhooks = figures.webhooks
    yield counter(
        "webhooks_finished", "Webhooks that are over, by outcome.", "outcome",
        one(webhooks.finished),
    )  # fmt: skip
    yield counter("webhook_retries", "Further tries of webhooks.", "", [((), webhooks.retries)])
    yield gauge("webhooks_pending", "Webhooks on their way.", "", [((), live.webhooks_pending)])
