"""Whether an instance is this ComfyUI itself, and whether its port is free."""

from __future__ import annotations

import socket
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("instance", "addresses", "own"),
    [
        ("localhost:8189", ["127.0.0.1"], True),
        ("127.0.0.1:8189", ["0.0.0.0", "::"], True),
        ("http://127.0.0.1:8189/", ["localhost"], True),
        (f"{socket.gethostname()}:8189", ["0.0.0.0", "::"], True),
        ("127.0.0.1:8188", ["127.0.0.1"], False),
        ("127.0.0.2:8189", ["127.0.0.1"], False),
        ("192.0.2.7:8189", ["0.0.0.0"], False),  # nobody's address (RFC 5737)
        ("no-such-host.invalid:8189", ["0.0.0.0"], False),
        ("http://a:b:c", ["0.0.0.0"], False),
        ("", ["0.0.0.0"], False),
    ],
)
def test_it_knows_itself(plugin: Any, instance: str, addresses: list[str], own: bool) -> None:
    """By port and address, whatever name leads there."""
    assert plugin("own_address").is_own(instance, addresses, 8189) is own


def test_a_port_at_which_somebody_listens_is_taken(plugin: Any) -> None:
    taken = plugin("own_address").taken
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert taken(["127.0.0.2", "127.0.0.1"], port) == "127.0.0.1"
        assert taken(["0.0.0.0"], port) == "0.0.0.0"
        assert taken(["127.0.0.2", "no-such-host.invalid", "192.0.2.7"], port) is None
    assert taken(["127.0.0.1"], port) is None
