"""The prompts of our jobs: their records in the ledger, and how one attempt of them is run."""

from __future__ import annotations

import uuid

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.runs.prompt_follower import OnUpdate
from comfy_proxy.jobs.runs.prompt_run import PromptRun
from comfy_proxy.jobs.workflows.graph import Graph
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, JobRef, Prompt
from comfy_proxy.ledger.states import Ending


class JobPrompts:
    """One for each application."""

    def __init__(self, cluster: Cluster, ledger: Ledger, dispatcher: Dispatcher) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._dispatcher = dispatcher

    def prompt_of(self, job: Job, before: Prompt | None, work: Work | None) -> Prompt:
        """The record for the next attempt of ``job``, which comes to ``work``: that of the attempt
        ``before`` if it was moved and goes on, else a new one, under an id that no instance knows.
        """
        if before is not None and not before.ended:
            return before
        return self.received(JobRef(job_id=job.id, job_type=job.type), work)

    def received(self, job: JobRef, work: Work | None = None) -> Prompt:
        """A new record."""
        prompt = Prompt(prompt_id=str(uuid.uuid4()), job=job, work=work)
        self._ledger.apply(events.Received(prompt=prompt))
        return prompt

    def abandon(self, prompt: Prompt | None) -> None:
        """Its job has ended: one that was on its way elsewhere ends too."""
        if prompt is not None and not prompt.ended:
            end = End(ending=Ending.CANCELLED)
            self._ledger.apply(events.Finished(prompt=prompt, end=end))

    def run(
        self, placement: Placement, graph: Graph, prompt: Prompt, on_update: OnUpdate
    ) -> PromptRun:
        """One attempt at ``graph`` at a place that the scheduler gave."""
        cluster = self._cluster
        return PromptRun(
            placement,
            graph,
            prompt,
            client=cluster.clients[placement.instance],
            connections=cluster.connections,
            dispatcher=self._dispatcher,
            ledger=self._ledger,
            hang_watch=cluster.hang_watch,
            clock=cluster.clock,
            silence_timeout_s=cluster.settings.comfyui_timeout_s,
            on_update=on_update,
            spawn=cluster.spawn,
        )
