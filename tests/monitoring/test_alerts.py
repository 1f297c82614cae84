"""Each alert fires when it should, and not otherwise: ``alerts_test.yml``, by promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from prometheus_server import CONFIG

CASES = Path(__file__).with_name("alerts_test.yml")


def test_alerts_fire_when_they_should() -> None:
    """And say what is the matter; a long outage is no flapping, a few failures are no alarm."""
    done = subprocess.run(
        ["promtool", "test", "rules", str(CASES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_to_fire_and_not_to() -> None:
    """None is without a case of both kinds."""
    alerts = re.findall(r"- alert: (\w+)", (CONFIG / "prometheus" / "alerts.yml").read_text())
    cases = CASES.read_text()
    assert alerts
    for alert in alerts:
        assert f"- {{alertname: {alert}, " in cases
        assert re.search(rf"- alertname: {alert}\n +eval_time: \S+\n +exp_alerts:\n +- ", cases)
