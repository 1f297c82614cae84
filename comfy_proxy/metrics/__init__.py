"""What the proxy has done, counted: fed by frozen records, read by ``/metrics`` and the dashboard.

``Metrics`` (one for each application) takes one record an attempt, job, prompt and request.
"""

from comfy_proxy.metrics.metrics import Metrics

__all__ = ["Metrics"]
