"""Connects the metrics with the rooms of an application, and reads the rooms' state for them.

The rooms know nothing of metrics: they call whatever observers they have.
"""

from __future__ import annotations

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import JobCancelledError
from comfy_proxy.gateway.exchange.socket_traffic import ALL_TRAFFIC
from comfy_proxy.jobs.model import Job, JobStatus
from comfy_proxy.keys import CLUSTER, GATEWAY, JOBS, REQUEST_OBSERVERS, WEBHOOKS
from comfy_proxy.metrics import Metrics
from comfy_proxy.metrics.live import InstanceState, LiveState
from comfy_proxy.metrics.records import JobRecord, Outcome


def observe(app: web.Application) -> Metrics:
    """The metrics of ``app``, listening to its rooms; call it after ``middleware.register``."""
    cluster, jobs = app[CLUSTER], app[JOBS]
    metrics = Metrics(
        clock=cluster.clock,
        instances=[instance.host for instance in cluster.instances],
        job_types=jobs.workflows.names(),
        live=lambda: live_state(app),
    )

    def joined(instance: Instance) -> None:
        metrics.join(instance.host)
        instance.observers.append(metrics.record_attempt)
        instance.on_circuit.append(metrics.record_circuit)

    cluster.instances.each(joined)
    cluster.instances.on_removed.append(lambda instance: metrics.leave(instance.host))
    cluster.on_prompt.append(metrics.record_prompt)
    cluster.on_prompt_end.append(metrics.record_prompt_end)
    cluster.connections.on_wait.append(metrics.record_pool_wait)
    cluster.experience.on_run.append(metrics.loads.record)
    jobs.manager.on_created.append(lambda job: metrics.record_accepted_job(job.type))
    jobs.manager.on_finished.append(lambda job: metrics.record_job(job_record(job)))
    deliveries = app[WEBHOOKS].deliveries
    deliveries.on_over.append(lambda over: metrics.webhooks.record(over[1]))
    deliveries.on_retry.append(metrics.webhooks.record_retry)
    app[REQUEST_OBSERVERS].append(metrics.record_request)
    return metrics


def job_record(job: Job) -> JobRecord:
    """The record of a job that has ended."""
    return JobRecord(
        id=job.id,
        type=job.type,
        outcome=_outcome(job),
        instance=job.instance,
        attempts=job.attempts,
        waiting_s=job.waiting_time_s,
        processing_s=job.execution_time_s,
        code=job.error.code if job.error else None,
        message=job.error.message if job.error else None,
        told_s=job.told_s,
    )


def _outcome(job: Job) -> Outcome:
    if job.status is JobStatus.COMPLETED:
        return Outcome.COMPLETED
    cancelled = job.error is not None and job.error.code == JobCancelledError.code
    return Outcome.CANCELLED if cancelled else Outcome.FAILED


def live_state(app: web.Application) -> LiveState:
    """The application's state at this moment, from memory: no instance is asked."""
    cluster, jobs = app[CLUSTER], app[JOBS]
    return LiveState(
        uptime_s=cluster.uptime_s,
        pending_jobs=len(jobs.processor.waiting),
        processing_jobs=len(jobs.processor.running),
        max_concurrent_jobs=jobs.processor.max_concurrent,
        instances=tuple(_instance_state(one, cluster) for one in cluster.instances),
        sockets=app[ALL_TRAFFIC].totals,
        static_text=app[GATEWAY].first_page.totals,
        webhooks_pending=len(app[WEBHOOKS].deliveries),
    )


def _instance_state(instance: Instance, cluster: Cluster) -> InstanceState:
    pool = cluster.connections.pool_state(instance)
    return InstanceState(
        id=instance.id,
        host=instance.host,
        # A circuit is closed at the start; "healthy" is said after the first check that passed.
        healthy=instance.healthy and instance.last_success is not None,
        circuit=str(instance.breaker.state),
        consecutive_failures=instance.breaker.consecutive_failures,
        last_error=instance.last_error,
        last_error_at=instance.last_error_at,
        active_jobs=instance.active_jobs,
        load=instance.load,
        client_prompts=instance.prompts.of_clients,
        last_check=instance.last_check,
        last_success=instance.last_success,
        response_time_s=instance.response_time_s,
        pool_open=pool.open,
        pool_in_use=pool.in_use,
        pool_waiting=pool.waiting,
        name=instance.name,
        drained=instance.drained,
        leaving=instance.leaving,
        stands_still=instance.stands_still,
        models_loaded=cluster.planner.lines[instance].loaded.names(),
    )
