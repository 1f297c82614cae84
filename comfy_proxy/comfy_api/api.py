"""All routes of the Comfy API v2, and the form in which their errors are told."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from comfy_proxy.comfy_api import asset_routes, job_routes
from comfy_proxy.comfy_api.errors import in_contract_form
from comfy_proxy.gateway.exchange.error_answers import ErrorForm


def routes() -> list[web.RouteDef]:
    """To be registered after the host's own."""
    return [*job_routes.routes(), *asset_routes.routes()]


def error_forms(routes: list[web.RouteDef]) -> Mapping[object, ErrorForm]:
    """The form of errors by handler: what is refused before a handler is asked has it too."""
    return {route.handler: in_contract_form for route in routes}
