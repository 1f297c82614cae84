"""The rooms of an application, made as ``comfy_proxy.app`` makes them, for tests of one of them."""

from __future__ import annotations

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.dispatch.plan_feed import PlanFeed
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.jobs.runs.job_prompts import JobPrompts
from comfy_proxy.ledger.ledger import Ledger


def dispatcher_of(cluster: Cluster, ledger: Ledger) -> Dispatcher:
    feed = PlanFeed(cluster.planner, cluster.experience, cluster.clock)
    ledger.observers.append(feed.observe)
    return Dispatcher(ledger, cluster.health_checker, cluster.planner, cluster.clock)


def make_gateway(cluster: Cluster) -> Gateway:
    ledger = Ledger(cluster.clock)
    return Gateway(cluster, ledger, dispatcher_of(cluster, ledger))


def make_job_prompts(cluster: Cluster) -> JobPrompts:
    ledger = Ledger(cluster.clock)
    return JobPrompts(cluster, ledger, dispatcher_of(cluster, ledger))
