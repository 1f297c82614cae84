"""Kinds of request about what is installed, about HTTP itself, and handshakes of WebSockets."""

from __future__ import annotations

import json

from kinds import Kind, ask, send
from raw_http import CLOSE, PING, TEXT, frame

FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}).encode()
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
OWN = "Origin: http://$host"

INSTALLED: tuple[Kind, ...] = (
    ask("GET /object_info"),
    ask("HEAD /api/object_info"),
    ask("GET /object_info", "Accept-Encoding: gzip", name="object_info, gzip"),
    ask("GET /object_info/EmptyImage"),
    ask("GET /api/object_info/LoadImage"),
    ask("GET /object_info/Nowhere"),
    ask("GET /object_info/a%2Fb"),
    ask("POST /object_info"),
    ask("GET /system_stats"),
    ask("GET /api/features"),
    ask("GET /embeddings"),
    ask("GET /models"),
    ask("GET /api/models/upscale_models"),
    ask("GET /models/nowhere"),
    ask("GET /experiment/models"),
    ask("GET /api/experiment/models/upscale_models"),
    ask("GET /experiment/models/preview/upscale_models/0/absent.pth"),
    ask("GET /view_metadata/checkpoints?filename=absent.safetensors"),
    ask("GET /extensions"),
    ask("GET /i18n"),
    ask("GET /workflow_templates"),
    ask("GET /api/global_subgraphs"),
    ask("GET /global_subgraphs/absent"),
    ask("GET /internal/folder_paths"),
    ask("PATCH /api/features"),
    ask("GET /api/assets"),
    ask("GET /node_replacements"),
)

WIRE: tuple[Kind, ...] = (
    ask("GET /nowhere"),
    ask("GET /api/nowhere"),
    ask("POST /nowhere"),
    send("PUT /nowhere", b"body", chunked=True, name="a body for nobody"),
    ask("GET /a%2Fb"),
    ask("GET /api/../queue"),
    ask("GET /./queue"),
    ask("GET //queue"),
    ask("GET /queue/"),
    ask("GET /%71ueue"),
    ask("GET /queue%00"),
    ask("GET /queue;a=b"),
    ask("GET /models/..%2F..%2Fsecret"),
    ask("GET /queue?"),
    ask("GET /queue?a=b?c=d&%zz&=&&a[]=1"),
    ask("GET /qu\xe9ue", name="a target that is not encoded"),
    ask("GET http://$host/features", name="absolute form"),
    ask("OPTIONS /queue"),
    ask("OPTIONS /nowhere"),
    ask("OPTIONS *"),
    ask(
        "OPTIONS /queue", OWN, "Access-Control-Request-Method: POST", name="a preflight of our own"
    ),
    ask("TRACE /queue"),
    ask("BREW /pot"),
    ask("get /features", name="a method in small letters"),
    ask("GET /features", OWN, "Sec-Fetch-Site: same-origin", name="a page of our own"),
    ask("GET /features", "Origin: http://evil.example", name="a foreign page"),
    send("POST /queue", {}, "Origin: http://evil.example", name="a foreign page posts"),
    ask("GET /features", "Sec-Fetch-Site: cross-site", name="a foreign image"),
    ask("GET /features", "Accept-Encoding: gzip, deflate, br", name="compression is welcome"),
    ask("GET /features", "Accept: text/html", "X-A: 1", "X-A: 2", "x-a: ", name="headers twice"),
    ask("GET /features", "X-A: caf\xe9", name="a header that is no ASCII"),
    ask("GET /features", "Cookie: a=b; c=d", "Authorization: Basic eDp5", name="credentials"),
    ask("GET /features", "Connection: close", name="the last request"),
    ask("GET /features HTTP/1.0", name="HTTP/1.0"),
    ask("GET /features HTTP/1.0", "Connection: keep-alive", name="HTTP/1.0 to be kept"),
    ask("GET /view?filename=absent HTTP/1.0", name="HTTP/1.0, 404"),
    ask("GET /features", "X-Request-ID: mine", name="an id of the client"),
    ask("GET /features", "Transfer-Encoding: chunked", "Content-Length: 5", name="two lengths"),
    ask("GET /features HTTP/3.9", name="a version that is none"),
    ask("GET /features", "Content-Length: many", name="a length that is none"),
    ask("GET /features", "Bad Header: x", name="a header that is none"),
    ask("GET /" + "a" * 9000, name="a target without end"),
    ask("GET /features", "X-Long: " + "a" * 9000, name="a header without end"),
    ask("GET /features", "Host: evil.example", name="a foreign host"),
    ask("GET /features", "Host: localhost", name="a host without a port"),
    ask("GET /features", "Expect: 200-maybe", name="an expectation that is none"),
    ask("GET /health"),
)

SOCKETS: tuple[Kind, ...] = (
    ask("GET /ws?clientId=transparent-1", *UPGRADE, name="socket", frames=1),
    ask("GET /api/ws?clientId=transparent-2", *UPGRADE, OWN, name="socket of a page", frames=1),
    ask("GET /ws", *UPGRADE, name="socket without a clientId", frames=1),
    ask("GET /ws?clientId=", *UPGRADE, name="socket, an empty clientId", frames=1),
    ask("GET /ws?clientId=a%2Fb%20&clientId=c", *UPGRADE, name="socket, clientId twice", frames=1),
    ask(
        "GET /ws?clientId=transparent-3",
        *UPGRADE,
        name="socket with feature flags",
        frames=2,
        says=(frame(TEXT, FLAGS),),
    ),
    ask(
        "GET /ws?clientId=transparent-4",
        *UPGRADE,
        name="socket, a ping",
        frames=2,
        says=(frame(PING, b"ping"),),
    ),
    ask(
        "GET /ws?clientId=transparent-5",
        *UPGRADE,
        name="socket, closed",
        frames=2,
        says=(frame(CLOSE, b"\x03\xe8bye"),),
    ),
    ask(
        "GET /ws?clientId=transparent-6",
        *UPGRADE,
        name="socket, closed without a code",
        frames=2,
        says=(frame(CLOSE, b""),),
    ),
    ask(
        "GET /ws?clientId=transparent-7",
        *UPGRADE,
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        name="socket, compression is welcome",
    ),
    ask(
        "GET /ws?clientId=transparent-8",
        *UPGRADE,
        "Sec-WebSocket-Protocol: a, b",
        name="socket with protocols",
        frames=1,
    ),
    ask("GET /ws", name="no handshake"),
    ask("HEAD /ws"),
    ask("POST /ws"),
    ask(
        "GET /ws", *UPGRADE[:2], "Sec-WebSocket-Version: 12", UPGRADE[3], name="socket, version 12"
    ),
    ask("GET /ws", *UPGRADE[:3], name="socket without a key"),
    ask("GET /ws", *UPGRADE[:3], "Sec-WebSocket-Key: short", name="socket, a bad key"),
    ask("GET /ws", *UPGRADE[1:], name="socket, no Connection"),
    ask("GET /ws", *UPGRADE, "Origin: http://evil.example", name="socket of a foreign page"),
    ask("GET /features", *UPGRADE, name="socket where there is none"),
    ask("GET /nowhere", *UPGRADE, name="socket nowhere"),
    ask("GET /features", "Connection: Upgrade", "Upgrade: h2c", name="another upgrade"),
    ask("GET /ws", "Connection: Upgrade", "Upgrade: h2c", name="another upgrade of a socket"),
)
