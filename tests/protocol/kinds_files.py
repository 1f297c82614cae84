"""Kinds of request about files: uploads, /view, what the frontend keeps, static files."""

from __future__ import annotations

import json

from graphs import noise, png
from kinds import Kind, ask, header, send, upload, zipped

PICTURE, OTHER = png(noise(seed=1)), png(noise(seed=2))
MASK = png(noise(channels=4, seed=3))
ORIGINAL = json.dumps({"filename": "t.png", "subfolder": "t/sub", "type": "input"})
ABSENT = json.dumps({"filename": "absent.png", "subfolder": "t", "type": "input"})
IN_SUB = "subfolder=t%2Fsub&type=input"

UPLOADS: tuple[Kind, ...] = (
    upload("POST /upload/image", "t.png", PICTURE, title="upload"),
    upload("POST /upload/image", "t.png", PICTURE, title="upload, the same again"),
    upload("POST /upload/image", "t.png", OTHER, title="upload, other bytes under that name"),
    upload("POST /upload/image", "t.png", OTHER, title="upload, overwrite", overwrite="true"),
    upload(
        "POST /api/upload/image", "t.png", PICTURE, title="upload to a folder", subfolder="t/sub"
    ),
    upload(
        "POST /api/upload/image", "t.png", OTHER, title="upload as temp", type="temp", subfolder="t"
    ),
    upload(
        "POST /upload/image", "o.png", OTHER, title="upload as output", type="output", subfolder="t"
    ),
    upload("POST /upload/image", "bläu 1.png", PICTURE, title="upload, a name with letters"),
    upload("POST /upload/image", "t.png", PICTURE, title="upload, it climbs", subfolder="../.."),
    upload("POST /upload/image", "t.png", PICTURE, title="upload, no such type", type="elsewhere"),
    upload("POST /upload/image", "", PICTURE, title="upload, no name"),
    upload("POST /upload/mask", "m.png", MASK, title="mask", original_ref=ORIGINAL, subfolder="t"),
    upload(
        "POST /api/upload/mask",
        "n.png",
        MASK,
        title="mask of what is not there",
        original_ref=ABSENT,
        subfolder="t",
    ),
    upload("POST /upload/mask", "x.png", MASK, title="mask of nothing", subfolder="t"),
    upload("POST /upload/mask", "x.png", MASK, title="mask of no JSON", original_ref="{"),
    send("POST /upload/image", b"no form", "Content-Type: text/plain", name="upload, no form"),
    send(
        "POST /upload/image",
        b"--x\r\nbroken",
        "Content-Type: multipart/form-data; boundary=x",
        name="upload, half a form",
    ),
    send("POST /upload/image", b"", name="upload, nothing"),
    ask("GET /upload/image"),
    ask("PUT /api/upload/image"),
)

VIEWS: tuple[Kind, ...] = (
    ask(
        "GET /view?filename=t.png&type=input",
        keep={"etag": header("ETag"), "date": header("Last-Modified")},
    ),
    ask(f"GET /api/view?filename=t.png&{IN_SUB}"),
    ask(f"HEAD /view?filename=t.png&{IN_SUB}"),
    ask("GET /view?filename=t.png&type=input", "If-None-Match: $etag", name="view, its ETag"),
    ask("GET /view?filename=t.png&type=input", 'If-None-Match: "other"', name="view, other ETag"),
    ask("GET /view?filename=t.png&type=input", "If-Match: $etag", name="view, If-Match"),
    ask("GET /view?filename=t.png&type=input", 'If-Match: "other"', name="view, 412"),
    ask(
        "GET /view?filename=t.png&type=input", "If-Modified-Since: $date", name="view, 304 by date"
    ),
    ask(
        "GET /view?filename=t.png&type=input",
        "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT",
        name="view, modified since",
    ),
    ask(
        "GET /view?filename=t.png&type=input",
        "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT",
        name="view, 412 by date",
    ),
    ask("GET /view?filename=t.png&type=input", "Range: bytes=10-19", name="view, ten bytes"),
    ask("GET /view?filename=t.png&type=input", "Range: bytes=-5", name="view, the last bytes"),
    ask("GET /view?filename=t.png&type=input", "Range: bytes=9000-", name="view, the rest"),
    ask("GET /view?filename=t.png&type=input", "Range: bytes=999999-", name="view, 416"),
    ask("GET /view?filename=t.png&type=input", "Range: lines=1-2", name="view, odd range"),
    ask(
        "GET /view?filename=t.png&type=input",
        "Range: bytes=0-3",
        "If-Range: $etag",
        name="view, If-Range",
    ),
    ask("HEAD /view?filename=t.png&type=input", "Range: bytes=0-3", name="view, HEAD of a range"),
    ask("GET /view?filename=t.png&type=input", "Accept-Encoding: gzip", name="view, gzip"),
    ask("GET /view?filename=t.png&type=input&preview=webp;50"),
    ask("GET /view?filename=t.png&type=input&preview=jpeg"),
    ask("GET /view?filename=m.png&subfolder=t&type=input&channel=rgb"),
    ask("GET /view?filename=m.png&subfolder=t&type=input&channel=a"),
    ask("GET /view?filename=m.png&subfolder=t&type=input&channel=rgba"),
    ask("GET /view?filename=m.png&subfolder=t&type=input&preview=jpeg;70&channel=a"),
    ask("GET /view?filename=t.png&type=temp&subfolder=t"),
    ask("GET /view?filename=t.png%20%5Binput%5D"),
    ask("GET /view?filename=bl%C3%A4u+1.png&type=input"),
    ask("GET /view?filename=bl%C3%A4u%201.png&type=input&type=output", name="view, type twice"),
    ask("GET /view?type=input&filename=t.png&filename=m.png", name="view, filename twice"),
    ask("GET /view?filename=t.png&type=input&&=&rand=0.123&x", name="view, odd query"),
    ask("GET /view"),
    ask("GET /view?filename="),
    ask("GET /view?filename=absent.png"),
    ask("GET /api/view?filename=absent.png&subfolder=nowhere"),
    ask("GET /view?filename=../t.png"),
    ask("GET /view?filename=/etc/passwd"),
    ask("GET /view?filename=t.png&type=elsewhere"),
    ask("GET /view?filename=t.png&subfolder=../.."),
    ask("GET /view?filename=t.png&subfolder=t%2F..%2Ft%2Fsub&type=input"),
    ask("GET /view?filename=sub%2Ft.png&subfolder=t&type=input"),
    ask("POST /view?filename=t.png"),
    ask("GET /view?filename=blake3:0123"),
    ask("GET /internal/files/input"),
    ask("GET /internal/files/temp"),
    ask("GET /internal/files/elsewhere"),
    ask("GET /api/internal/files/input"),
)

STATE: tuple[Kind, ...] = (
    ask("GET /users"),
    ask("GET /api/settings"),
    send("POST /settings", {"Transparent.One": 1, "Transparent.Text": "ä\u2028"}),
    send("POST /api/settings/Transparent.Two", [1.5, None, True]),
    zipped("POST /settings/Transparent.Three", {"packed": True}, name="a setting, compressed"),
    send("POST /settings/Transparent.Four", b"no JSON", name="a setting, no JSON"),
    send("POST /settings", b"[]", name="settings, no object"),
    ask("GET /settings"),
    ask("GET /settings/Transparent.Two"),
    ask("HEAD /settings"),
    ask("GET /settings/Transparent.None"),
    ask("PUT /settings"),
    send("POST /userdata/t.json", b'{"a": 1}'),
    send("POST /userdata/t%2Fdeep%20name.json?full_info=true", b"deep", name="userdata, a folder"),
    send("POST /userdata/t.json?overwrite=false", b"{}", name="userdata, 409"),
    send(
        "POST /api/userdata/t.json?overwrite=true", b"new", chunked=True, name="userdata, chunked"
    ),
    zipped("POST /userdata/t%2Fzip.json", {"z": 1}, name="userdata, compressed"),
    send("POST /userdata/t%2Fcont.json", b"x" * 1000, "Expect: 100-continue", name="userdata, 100"),
    send("POST /userdata/t%2Fempty", b"", name="userdata, empty"),
    send("POST /userdata/..%2F..%2Fout", b"x", name="userdata, it climbs"),
    ask("GET /userdata/t.json", keep={"etag": header("ETag")}),
    ask("GET /userdata/t.json", "If-None-Match: $etag", name="userdata, its ETag"),
    ask("GET /userdata/t.json", "Range: bytes=1-2", name="userdata, a range"),
    ask("GET /api/userdata/t%2Fdeep%20name.json"),
    ask("GET /userdata/t/deep name.json", name="userdata, not encoded"),
    ask("HEAD /userdata/t.json"),
    ask("GET /userdata/absent.json"),
    ask("GET /userdata?dir=t&recurse=true&split=true&full_info=false"),
    ask("GET /userdata?dir=t&full_info=true"),
    ask("GET /userdata?dir=../.."),
    ask("GET /userdata"),
    ask("GET /v2/userdata?path=t"),
    ask("GET /api/v2/userdata?path=absent"),
    ask("POST /userdata/t.json/move/t%2Fmoved.json?full_info=true"),
    ask("POST /userdata/t%2Fzip.json/move/t%2Fmoved.json?overwrite=false"),
    ask("POST /userdata/absent/move/other"),
    ask("DELETE /userdata/t%2Fmoved.json"),
    ask("DELETE /userdata/t%2Fmoved.json", name="userdata, deleted twice"),
    ask("PATCH /userdata/t.json"),
)

STATIC: tuple[Kind, ...] = (
    ask("GET /", keep={"etag": header("ETag"), "date": header("Last-Modified")}),
    ask("HEAD /"),
    ask("GET /", "If-None-Match: $etag", name="the page, its ETag"),
    ask("GET /", "If-Modified-Since: $date", name="the page, not modified"),
    ask("GET /?token=none"),
    ask("GET /index.html"),
    ask("GET /index.html", "Range: bytes=0-9", name="static, a range"),
    ask("GET /index.html", "Accept-Encoding: gzip, br", name="static, gzip"),
    ask("GET /user.css"),
    ask("GET /assets/absent.js"),
    ask("GET /absent.png"),
    ask("GET /assets"),
    ask("GET /extensions/absent/main.js"),
    ask("GET /templates/index.json"),
    ask("GET /docs/absent.md"),
    ask("POST /index.html"),
)
