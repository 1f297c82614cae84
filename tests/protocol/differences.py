"""THE TABLE: in what a conversation through the proxy differs from a direct one, and why.

First what chance makes different each time, hidden on both sides; then what the proxy makes
different, taken back on its side where that can be done. Whatever is left must be equal, byte for
byte.
"""

from __future__ import annotations

from edits import (
    Difference,
    absent,
    added,
    also_seen,
    as_many_devices,
    decompressed,
    hidden,
    hidden_in_body,
    hidden_text,
    moved_to_the_end,
    not_seen,
    of_our_own,
    ours,
    running_or_not,
    sorted_headers,
)

UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
MADE_HERE = "view|output|userdata"
TOLD = r"prompt|queue|history|jobs"
ECHO = r"^echo|^[A-Z]+ (/api)?/proxy-test/echo"

TABLE: tuple[Difference, ...] = (
    Difference(
        name="two run",
        reason="one prompt for each instance, instead of one that runs and one that waits",
        kinds="queue of two",
        chance=running_or_not,
    ),
    # What differs between any two conversations.
    Difference(name="Date", reason="the time of the answer", chance=hidden(b"Date")),
    Difference(
        name="ETag of files",
        reason="made of the time of an upload, a few lines before",
        kinds=MADE_HERE,
        chance=hidden(b"Etag", rb"[0-9a-f]{16}"),
    ),
    Difference(
        name="Last-Modified of files",
        reason="the time of an upload, a few lines before",
        kinds=MADE_HERE,
        chance=hidden(b"Last-Modified"),
    ),
    Difference(
        name="times of files",
        reason="the time of an upload, a few lines before",
        kinds="userdata",
        chance=hidden_in_body(rb'("(modified|created)": )[\d.]+', rb"\1."),
    ),
    Difference(
        name="times of prompts",
        reason="when it was submitted and executed",
        kinds=TOLD,
        chance=hidden_in_body(rb'("(timestamp|create_time)": )\d{13}', rb"\1."),
    ),
    Difference(
        name="where it was interrupted",
        reason="a prompt that has just begun may be at its first node yet, or at its second",
        kinds="history",
        chance=hidden_in_body(
            rb'(\["execution_interrupted", \{"prompt_id": "[^"]*"), "node_id": [^}]*\}', rb"\1}"
        ),
    ),
    Difference(
        name="ids of prompts",
        reason="a prompt without an id is given one by chance",
        kinds=TOLD,
        chance=hidden_in_body(rb"(?!0123abcd)" + UUID),
    ),
    Difference(
        name="sid",
        reason="a socket without a clientId is given one by chance",
        kinds="socket",
        chance=hidden_in_body(rb'(?<="sid": ")[0-9a-f]{32}'),
    ),
    Difference(
        name="memory",
        reason="how much is free at the moment",
        kinds="system_stats",
        chance=hidden_in_body(rb'("\w+_free": )\d+', rb"\1."),
    ),
    Difference(
        name="number",
        reason="each instance counts the prompts that it has got, since its start",
        kinds=TOLD,
        chance=hidden_in_body(rb'((?<="number": )|(?<=\[))-?\d+(?=, "|})'),
    ),
    Difference(
        name="order of a set",
        reason="Python's sets have another order in each process",
        kinds="history",
        only="real",
        chance=hidden_in_body(rb'("current_outputs": )\[[^]]*\]', rb"\1."),
    ),
    Difference(
        name="directory",
        reason="the errors of a custom node tell where the instance lives that ran it",
        kinds="history",
        only="real",
        chance=hidden_in_body(rb"/[12](?=/custom_nodes/)"),
    ),
    # What is added to every answer, or belongs to the connection.
    Difference(
        name="X-Request-ID",
        reason="the contract: the id under which our log has the request",
        undo=added(b"X-Request-ID", rb"[0-9a-f]{32}|mine"),
    ),
    Difference(
        name="the place of Transfer-Encoding",
        reason="hop by hop (RFC 9110 7.6.1): ours, so it comes last",
        alike=moved_to_the_end(b"Transfer-Encoding"),
    ),
    Difference(
        name="Connection after an error",
        reason="hop by hop: aiohttp closes after a 500, our connection is not concerned",
        undo=absent(b"Connection", b"close"),
    ),
    # What comes of several instances.
    Difference(
        name="@N in the subfolder of outputs",
        reason="the same name on two instances is two pictures (trap 6)",
        kinds=TOLD,
        undo=hidden_text(rb'("subfolder": ")@[12]/?', rb"\1"),
    ),
    Difference(
        name="devices of the others",
        reason="prompts run on the devices of all instances, so all of them are told",
        kinds="system_stats",
        undo=as_many_devices,
    ),
    Difference(
        name="length of what has a mark",
        reason="@N makes the body of the GET longer, numbers have more digits or fewer",
        kinds="^HEAD .*history",
        chance=hidden(b"Content-Length"),
    ),
    Difference(
        name="ETag of object_info",
        reason="made here: who has it already is spared half a megabyte",
        kinds="object_info",
        undo=added(b"Etag", rb'"[0-9a-f]{32}(-gzip)?"'),
    ),
    Difference(
        name="Cache-Control of object_info",
        reason="with an ETag a browser would guess how long it is fresh",
        kinds="object_info",
        undo=added(b"Cache-Control", b"no-cache"),
    ),
    Difference(
        name="Vary of object_info",
        reason="it is compressed for those who accept that",
        kinds="object_info",
        undo=added(b"Vary", b"Accept-Encoding"),
    ),
    Difference(
        name="object_info compressed",
        reason="half a megabyte, and compressed once for all clients",
        kinds="object_info, gzip",
        undo=decompressed,
    ),
    Difference(
        name="no compression of sockets",
        reason="to inflate and deflate each frame again costs more than it saves",
        kinds="socket, compression is welcome",
        undo=absent(b"Sec-WebSocket-Extensions", b"permessage-deflate"),
    ),
    # What is refused or answered here.
    Difference(
        name="foreign pages",
        reason="refused here (trap 7), also by Sec-Fetch-Site, as newer servers do",
        kinds="foreign page|foreign image",
        undo=ours(403, "foreign_origin"),
    ),
    Difference(
        name="foreign hosts",
        reason="refused here (DNS rebinding, trap 7)",
        kinds="a foreign host",
        undo=ours(403, "foreign_host"),
    ),
    Difference(
        name="broken compression",
        reason="our server has to decode it (trap 20): what cannot be decoded cannot be passed on",
        kinds="broken gzip",
        undo=ours(400, "invalid_body"),
    ),
    Difference(
        name="too large",
        reason="it is read here first, to know who is to get it: 413 in our own words",
        kinds="(prompt|userdata), too large",
        only="real",
        undo=ours(413, "payload_too_large"),
    ),
    Difference(
        name="other upgrades",
        reason="h2c is hop by hop (RFC 9110 7.8), and a way around our checks: it ends here",
        kinds="another upgrade of a socket",
        undo=hidden_text(rb"hdr: None", b"hdr: h2c"),
    ),
    Difference(
        name="OPTIONS *",
        reason="names the server and no resource: there is nothing to forward (RFC 9110 9.3.7)",
        kinds=r"OPTIONS \*",
        undo=ours(400, "bad_request"),
    ),
    Difference(
        name="our own paths",
        reason="the contract: /health is ours, and ComfyUI has none",
        kinds="GET /health",
        undo=of_our_own(b'"comfyui_instances"'),
    ),
    # What reaches a custom node's route.
    Difference(
        name="X-Forwarded-For, -Proto and -Host",
        reason="the contract: who has asked, by which address",
        kinds=ECHO,
        only="real",
        undo=also_seen("X-Forwarded-(For|Proto|Host)"),
    ),
    Difference(
        name="X-Forwarded-For of another proxy",
        reason="its list goes on with the address of that proxy",
        kinds="echo behind another proxy",
        only="real",
        undo=not_seen("X-Forwarded-For"),
    ),
    Difference(
        name="Via",
        reason="RFC 9110 7.6.3 wants it of a proxy",
        kinds=ECHO,
        only="real",
        undo=also_seen("Via", "1.1 comfy-proxy"),
    ),
    Difference(
        name="X-Request-ID of the request",
        reason="so that the instance's log can be joined with ours",
        kinds=ECHO,
        only="real",
        undo=also_seen("X-Request-ID"),
    ),
    Difference(
        name="Connection: close",
        reason="what is sent once has a connection of its own: a kept one may break under it",
        kinds=ECHO,
        only="real",
        undo=also_seen("Connection", "close"),
    ),
    Difference(
        name="Origin",
        reason="judged here; ComfyUI resolves its own name for each, while its event loop waits",
        kinds="echo, a page",
        only="real",
        undo=not_seen("Origin"),
    ),
    Difference(
        name="hop by hop headers",
        reason="they are for our server alone (RFC 9110 7.6.1)",
        kinds="echo, hop by hop",
        only="real",
        undo=not_seen("TE|Keep-Alive|Proxy-Authorization|Connection|X-Hop"),
    ),
    Difference(
        name="Expect",
        reason="our server has said 100 Continue already (RFC 9110 10.1.1)",
        kinds="echo of what was expected",
        only="real",
        undo=not_seen("Expect", "100-continue"),
    ),
    Difference(
        name="a body that was compressed",
        reason="our server has decoded it (trap 20): the same bytes for whoever reads them",
        kinds="echo of a compressed body",
        only="real",
        undo=not_seen("Content-Encoding|Content-Length"),
    ),
    Difference(
        name="chunks of a body that was compressed",
        reason="how long it is decoded is known at its end",
        kinds="echo of a compressed body",
        only="real",
        undo=also_seen("Transfer-Encoding", "chunked"),
    ),
    Difference(
        name="Content-Length: 0",
        reason="aiohttp's client says so where a body would be possible; it means the same",
        kinds="PROPFIND .*echo",
        only="real",
        undo=also_seen("Content-Length", "0"),
    ),
    Difference(
        name="header text that is no UTF-8",
        reason="it is ISO-8859-1 (RFC 9110 5.5), and aiohttp writes nothing but UTF-8",
        kinds="echo, headers",
        only="real",
        undo=hidden_text(rb"caf\\u00c3\\u00a9", rb"caf\\u00e9"),
    ),
    Difference(
        name="spelling of a name that comes twice",
        reason="names have no case; aiohttp's client loses the first of two spellings",
        kinds="echo, headers",
        only="real",
        undo=hidden_text(rb'\["X-A", "2"\]', b'["x-a", "2"]'),
    ),
    Difference(
        name="order of a handshake's headers",
        reason="aiohttp writes its own last; order has no meaning between different names",
        kinds="custom socket",
        only="real",
        alike=sorted_headers,
    ),
)
