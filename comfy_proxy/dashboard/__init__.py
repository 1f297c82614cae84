"""``/dashboard``: a page to look at, live through Server-Sent Events."""

from comfy_proxy.dashboard.routes import make_feed, routes

__all__ = ["make_feed", "routes"]
