"""How hard hypothesis tries: ``pytest --hypothesis-profile=thorough`` tries most."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("suite", max_examples=100, deadline=None, derandomize=True)
settings.register_profile(
    "thorough",
    max_examples=10_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
