"""counted_response.py: a long body is sent piece by piece, and others have their turn meanwhile."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, patch

from comfy_proxy.counted_response import LARGE, CountedResponse


async def test_others_have_their_turn_between_the_pieces_of_a_long_body() -> None:
    """Also where the client takes each piece at once, as one on this machine does."""
    answer, turns = CountedResponse(), 0
    with patch.object(CountedResponse, "write", AsyncMock()) as write:
        sending = asyncio.create_task(answer.write_in_pieces(bytes(5 * LARGE + 1)))
        while not sending.done():
            assert write.await_count <= turns
            turns += 1
            await asyncio.sleep(0)
    assert [len(call.args[0]) for call in write.await_args_list] == [*[LARGE] * 5, 1]
    assert turns > 5
