"""Where links of other sites lead, and what a browser says of a request."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from comfy_proxy.navigation import is_event_socket, is_navigation, is_page

PAGES = [
    "/",
    "/index.html",
    "/dashboard",
    "/%64ashboard",
    "/user.css",
    "/materialdesignicons.min.css",
    "/favicon.ico",
    "/assets/index-BKdH1OFt.js",
    "/assets/index-BKdH1OFt.js.map",
    "/assets/lib/@primevue/themes/nora/badge/index.mjs",
    "/assets/images/comfy-logo-single.svg",
    "/assets/manifest-CebUEmtR.json",
    "/fonts/inter-latin-normal.woff2",
    "/cursor/paintBucket.png",
    "/scripts/metadata/png.js",
    "/extensions/core/groupOptions.js",
    "/lib/litegraph.core.js",
]
NO_PAGES = [
    "//",
    "/./",
    "/queue",
    "/system_stats",
    "/dashboard/",
    "/dashboard/events",
    "/view",
    "/api/userdata/user.css",
    "/api/assets/x.js",
    "/assets",
    "/assets/",
    "/assets/reboot",
    "/assets/reboot/now",
    "/assets/.js",
    "/assets/../manager/reboot.js",
    "/assets/%2e%2e/manager/reboot.js",
    "/assets/%252e%252e/manager/reboot.js",
    "/assets/..%2fmanager%2freboot.js",
    "/assets/..\\manager\\reboot.js",
    "/assets//reboot.js",
    "/assets/a%00.js",
    "/assets/a.js/reboot",
    "/assets/a.js;b",
    "/extensions/ComfyUI-Manager/reboot.js",
    "/extensions/core/../ComfyUI-Manager/reboot.js",
    "/manager/reboot",
    "/manager/user.css",
    "/custom.js",
    "/docs/KSampler/en.md",
]


@pytest.mark.parametrize("path", PAGES)
def test_a_link_may_lead_to_pages_and_the_frontends_files(path: str) -> None:
    """As the frontend's package has them; an encoded letter is that letter."""
    assert is_page(path)


@pytest.mark.parametrize("path", NO_PAGES)
def test_a_link_leads_to_nothing_else(path: str) -> None:
    """Neither to a route that may do something, nor to what a server could read as one."""
    assert not is_page(path)


@pytest.mark.parametrize(
    ("method", "headers", "navigation"),
    [
        ("GET", {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}, True),
        ("HEAD", {"Sec-Fetch-Mode": "navigate"}, True),
        ("GET", {}, True),
        ("HEAD", {}, True),
        ("POST", {}, False),
        ("POST", {"Sec-Fetch-Mode": "navigate"}, False),
        ("GET", {"Sec-Fetch-Mode": "cors"}, False),
        ("GET", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, False),
        ("GET", {"Sec-Fetch-Site": "same-origin"}, False),
        ("GET", {"Sec-Fetch-Dest": "empty"}, False),
    ],
)
def test_a_navigation_is_what_shows_a_page(
    method: str, headers: dict[str, str], navigation: bool
) -> None:
    """By what the browser says; programs and old browsers say nothing and only read."""
    assert is_navigation(make_mocked_request(method, "/x", headers=headers)) is navigation


@pytest.mark.parametrize(
    ("path", "headers", "socket"),
    [
        ("/ws?token=k", {"Upgrade": "websocket"}, True),
        ("/api/ws", {"Upgrade": "WebSocket"}, True),
        ("/%77s", {"Upgrade": "websocket"}, True),
        ("/ws", {}, False),
        ("/ws", {"Upgrade": "h2c"}, False),
        ("/terminal/ws", {"Upgrade": "websocket"}, False),
        ("/ws/x", {"Upgrade": "websocket"}, False),
    ],
)
def test_comfyuis_own_socket_is_told_from_others(
    path: str, headers: dict[str, str], socket: bool
) -> None:
    """``/ws`` with and without ``/api``; a custom node's is none."""
    assert is_event_socket(make_mocked_request("GET", path, headers=headers)) is socket
