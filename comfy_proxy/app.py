"""Wiring: which rooms an application has, in the order in which they start and stop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web
from yarl import URL

from comfy_proxy import dashboard, instances_api, status
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.comfy_api import api as comfy_api
from comfy_proxy.comfy_api.doors import Doors
from comfy_proxy.comfy_api.service import ComfyApi
from comfy_proxy.dashboard.feed import Feed
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.dispatch.plan_feed import PlanFeed
from comfy_proxy.dispatch.run_feed import RunFeed
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.jobs import operations
from comfy_proxy.jobs.runs.job_prompts import JobPrompts
from comfy_proxy.jobs.service import JobService
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.jobs.workflows.registry import WorkflowRegistry
from comfy_proxy.keys import (
    CLUSTER,
    COMFY_API,
    DASHBOARD,
    GATEWAY,
    JOBS,
    LOGS,
    LOOP_WATCH,
    METRICS,
    SHUTDOWN,
    STATE,
    WEBHOOKS,
)
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.logs import AppLogs
from comfy_proxy.loop_watch import LoopWatch
from comfy_proxy.middleware import register
from comfy_proxy.observation import observe
from comfy_proxy.openapi import routes as openapi_routes
from comfy_proxy.openapi.operation import Operation
from comfy_proxy.our_routes import OUR_ROUTES, require_open
from comfy_proxy.settings import Settings, load_settings
from comfy_proxy.state import instance_ids
from comfy_proxy.state.state import Rooms, State
from comfy_proxy.webhooks.webhooks import Webhooks


def create_app(settings: Settings | None = None) -> web.Application:
    """An application that is nothing but the proxy; None reads the environment.

    It runs by itself, or under a path of another one: ``parent.add_subapp("/comfy/", app)``.
    Raises SettingsError. Also what ``adev runserver comfy_proxy`` calls.
    """
    app = web.Application()
    setup(app, settings)
    return app


def setup(app: web.Application, settings: Settings | None = None) -> None:
    """Make any aiohttp application carry the proxy; call it after the host's own routes.

    The host's routes win, ours come next, everything else is forwarded to ComfyUI. Nothing starts
    before the application does. ``app`` may become a sub-application of another one afterwards.
    Raises SettingsError.
    """
    require_open(app)
    settings = settings or load_settings()
    workflows = load_workflows(settings.workflow_directory)
    cluster = Cluster(settings, classes=workflows.required_classes(), ids=_ids(settings))
    app[CLUSTER] = cluster
    ledger = Ledger(cluster.clock)
    ledger.observers.append(PlanFeed(cluster.planner, cluster.experience, cluster.clock).observe)
    ledger.observers.append(RunFeed(cluster.standstills, ledger).observe)
    dispatcher = Dispatcher(ledger, cluster.health_checker, cluster.planner, cluster.clock)
    app[GATEWAY] = Gateway(cluster, ledger, dispatcher)
    app[COMFY_API] = ComfyApi(ledger, _doors(app[GATEWAY]))
    prompts = JobPrompts(cluster, ledger, dispatcher)
    app[JOBS] = JobService(settings, cluster, prompts, workflows)
    app[WEBHOOKS] = Webhooks(settings, app[JOBS])
    app[STATE] = State(_rooms(app, ledger))
    dispatcher.durable = app[STATE].sent
    app[JOBS].durable = app[WEBHOOKS].deliveries.durable = app[STATE].durable
    app[GATEWAY].commands.durable = app[STATE].durable
    comfy_routes = comfy_api.routes()
    ours = [*_routes(workflows), *comfy_routes]
    register(app, ours, settings, comfy_api.error_forms(comfy_routes))
    app[WEBHOOKS].mount = lambda: app[OUR_ROUTES].mount
    _watch(app)
    app.cleanup_ctx.append(_lifecycle)
    app.on_shutdown.append(_end_waiting)


def _watch(app: web.Application) -> None:
    """What tells of the others, once these and the routes are there."""
    app[LOOP_WATCH] = LoopWatch(lambda: app[LOGS].takes("debug"))
    app[METRICS] = observe(app)
    app[METRICS].logs = app[LOGS]
    app[METRICS].loop_lags = app[LOOP_WATCH].lags
    app[DASHBOARD] = dashboard.make_feed(app)


def _routes(workflows: WorkflowRegistry) -> list[web.RouteDef]:
    """Our own API, and its description."""
    return [
        *status.routes(),
        *instances_api.routes(),
        *dashboard.routes(),
        *operations.routes(),
        *openapi_routes.routes(partial(_described, workflows)),
    ]


def _described(workflows: WorkflowRegistry) -> list[Operation]:
    """What OpenAPI tells of: the job API with the workflows of now, and what operators use."""
    return [
        *operations.described(workflows),
        *status.OPERATIONS,
        *instances_api.OPERATIONS,
    ]


async def _lifecycle(app: web.Application) -> AsyncIterator[None]:
    """Start the rooms and end them, the last one first.

    If one fails to start or to end, all those that were begun are ended nevertheless.
    """
    logs = app[LOGS]
    async with AsyncExitStack() as begun:
        if logs.start():
            begun.push_async_callback(asyncio.to_thread, logs.close)
        rooms = (app[STATE], app[CLUSTER], app[GATEWAY], app[COMFY_API], app[WEBHOOKS], app[JOBS])
        for room in rooms:
            begun.push_async_callback(_close, room, logs)  # before: half a start is to be ended too
            with logs.current():
                await room.start()
        with logs.current():
            app[LOOP_WATCH].start()
            begun.callback(app[LOOP_WATCH].close)
            await app[STATE].restore()
        begun.push_async_callback(_close, app[DASHBOARD], logs)
        yield


def _rooms(app: web.Application, ledger: Ledger) -> Rooms:
    gateway = app[GATEWAY]
    return Rooms(
        cluster=app[CLUSTER],
        ledger=ledger,
        jobs=app[JOBS],
        makers=gateway.files.makers,
        disks=gateway.files.disks,
        own_history=gateway.own_history,
        kept=gateway.views.kept,
        keeper=gateway.views.keeper,
        reconciler=gateway.reconciler,
        webhooks=app[WEBHOOKS],
        comfy_api=app[COMFY_API],
    )


def _doors(gateway: Gateway) -> Doors:
    return Doors(
        cluster=gateway.cluster,
        intake=gateway.intake,
        commands=gateway.commands,
        listen=gateway.events.listen,
        ended=gateway.views.ended,
        spool=gateway.spool,
        files=gateway.files,
        file_view=gateway.file_view,
        offered=gateway.offered,
        secret=secrets.token_bytes(32),
    )


def _ids(settings: Settings) -> Mapping[URL, str]:
    """The numbers that instances have had before, those of the configuration with theirs."""
    path = settings.state_file
    known = {} if path is None else instance_ids.known_ids(path)
    before = {URL(url, encoded=True): number for url, number in known.items()}
    return {**before, **instance_ids.ids_for(settings.instances, known)}


async def _close(
    room: State | Cluster | Gateway | ComfyApi | Webhooks | JobService | Feed, logs: AppLogs
) -> None:
    with logs.current():
        await room.close()


async def _end_waiting(app: web.Application) -> None:
    """End open dashboards and all jobs, before aiohttp waits for the requests that are open.

    A request that waits for a job ends with it; otherwise it would hold up the stop. Jobs get no
    grace period if they had one while the door was open (``shutdown.py``).
    """
    jobs, has_had_time = app[JOBS], app[SHUTDOWN].begun
    with app[LOGS].current():
        app[DASHBOARD].end_viewers()
        app[COMFY_API].end_streams()
        await jobs.processor.close(0.0 if has_had_time else jobs.settings.shutdown_timeout_s)


async def finish_work(app: web.Application) -> None:
    """Refuse new work, and return when what was accepted has ended or had SHUTDOWN_TIMEOUT."""
    jobs, ledger = app[JOBS], app[GATEWAY].ledger
    with app[LOGS].current():
        await app[SHUTDOWN].finish(
            app[CLUSTER], ledger, jobs.processor, jobs.settings.shutdown_timeout_s
        )
