"""What is told of one instance is looked up, not searched for among the figures of all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from figures import TYPES, attempt, job, prompt_end

from comfy_proxy.metrics.instance_figures import InstanceFigures
from comfy_proxy.metrics.job_figures import JobFigures
from comfy_proxy.metrics.prompt_figures import PromptFigures


class LookedUp(Counter[Any]):
    """Fails whoever goes through all of it."""

    def items(self) -> Any:
        raise AssertionError("gone through as a whole")

    __iter__ = keys = values = items  # type: ignore[assignment]


HOSTS = [f"gpu{number}:8188" for number in range(300)]


@pytest.mark.parametrize("host", [HOSTS[0], HOSTS[299]])
def test_no_instance_costs_more_because_there_are_others(host: str) -> None:
    """300 instances that are told one by one cost 300 times what one does, not 90,000 times."""
    instances, prompts = InstanceFigures(HOSTS), PromptFigures(HOSTS)
    jobs = JobFigures(TYPES, instances.hosts)
    for one in HOSTS:
        instances.record_attempt(attempt(instance=one))
        jobs.record(job(instance=one))
        prompts.record_end(prompt_end(instance=one))
    whole = instances.requests_json(host), jobs.at_instance(host), prompts.at_instance(host)
    instances.attempts = LookedUp(dict(instances.attempts))
    jobs.finished = LookedUp(dict(jobs.finished))
    prompts.ends, prompts.events = LookedUp(dict(prompts.ends)), LookedUp(dict(prompts.events))
    told = instances.requests_json(host), jobs.at_instance(host), prompts.at_instance(host)
    assert told == whole
    assert (told[1]["completed"], told[2]["completed"]) == (1, 1)
