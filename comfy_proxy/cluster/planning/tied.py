"""Which prompts belong together because one of them names a result of another one."""

from __future__ import annotations

from collections.abc import Hashable

from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.slot import Slot
from comfy_proxy.cluster.planning.work import names_result_of


def is_tied(line: Line, key: Hashable) -> bool:
    """Whether a prompt has to stay among those of its client in ``line``: it names a result of one
    that waits or runs there, or one that waits behind it names a result of its own.

    Elsewhere the reader could run before its maker has, or where the file is not yet.
    """
    slot = line.find(key)
    if slot is None or slot is line.running:
        return False
    is_behind = False
    for one in line.waiting:
        if one is slot:
            is_behind = True
        elif _reads_from(slot, one) or (is_behind and _reads_from(one, slot)):
            return True
    return line.running is not None and _reads_from(slot, line.running)


def _reads_from(reader: Slot, maker: Slot) -> bool:
    if not reader.work.reads or reader.client != maker.client:
        return False
    return names_result_of(reader.work, maker.work)
