"""Loads paid and avoided, and which models are where."""

from __future__ import annotations

from figures import HOSTS, instance_state, made_metrics
from manual_clock import ManualClock
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from comfy_proxy.metrics import Metrics
from comfy_proxy.metrics.records import ModelUse


def used(metrics: Metrics, host: str, *loads_s: float | None) -> None:
    for load_s in loads_s:
        loaded = load_s is not None
        metrics.loads.record(ModelUse(instance=host, loaded=loaded, load_s=load_s or 0.0))


def test_loads_are_counted_where_they_were_paid(clock: ManualClock) -> None:
    """How often, how long together, and how often the models were there."""
    metrics = made_metrics(clock)
    used(metrics, HOSTS[0], 1.5, None, None, 0.25)
    used(metrics, HOSTS[1], None)
    one, two = metrics.get_stats()["instances"]
    assert one["model_loads"] == {"paid": 2, "avoided": 2, "seconds": 1.75}
    assert two["model_loads"] == {"paid": 0, "avoided": 1, "seconds": 0.0}


def test_names_of_models_are_in_the_json_alone(clock: ManualClock) -> None:
    """Sixteen of an instance at most, the one that was used last first; no label is a name."""
    names = tuple(f"model{number}.safetensors" for number in range(20))
    states = (instance_state(HOSTS[0], models_loaded=names), instance_state(HOSTS[1]))
    metrics = made_metrics(clock, instances=states)
    one, two = metrics.get_stats()["instances"]
    assert one["models_loaded"] == list(names[:16])
    assert two["models_loaded"] == []
    text = metrics.exposition.render(CONTENT_TYPE_PLAIN_0_0_4).decode()
    assert f'comfy_proxy_models_loaded{{comfyui_instance="{HOSTS[0]}"}} 20.0\n' in text
    assert "safetensors" not in text
