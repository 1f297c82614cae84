"""``GET /api/workflows`` as the contract has it, on a host application before the proxy's routes.

For a proxy that does not tell of its workflows itself; what is told is made of those it has.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from comfy_proxy.keys import JOBS


def told(name: str, workflow: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "image": {"type": "string", "format": "binary", "x-kind": "image"}
    }
    for parameter in workflow.parameters.values():
        schema: dict[str, Any] = {"type": parameter.type, "description": parameter.description}
        if parameter.type == "enum":
            schema = {"type": "string", "enum": list(parameter.choices)}
        for key, value in (
            ("default", parameter.default),
            ("minimum", parameter.minimum),
            ("exclusiveMinimum", parameter.exclusive_minimum),
            ("maximum", parameter.maximum),
        ):
            if value is not None:
                schema[key] = value
        properties[parameter.name] = schema
    return {
        "name": name,
        "title": name.replace("-", " ").capitalize(),
        "description": "",
        "url": f"/api/workflows/{name}",
        "parameters": {"type": "object", "properties": properties, "required": ["image"]},
        "file_parameters": ["image"],
        "outputs": None,
        "variants": [{"name": "core", "runs_on": ["gpu:8188"], "missing": {"b:1": ["Node"]}}],
    }


async def _list(request: web.Request) -> web.Response:
    workflows = request.app[JOBS].workflows
    listed = [told(name, workflows.get(name)) for name in workflows.names()]
    return web.json_response({"workflows": listed, "problems": []})


def host() -> web.Application:
    app = web.Application()
    app.router.add_get("/api/workflows", _list)
    return app
