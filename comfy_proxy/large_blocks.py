"""How the C library gives the memory of large blocks back: at once, instead of never."""

from __future__ import annotations

import ctypes
from typing import Final

BLOCK_BYTES: Final = 1_048_576
"""A block of this size or more (1 MiB) has pages of its own, which go back to the system when it is
freed. By itself glibc raises that bound to the largest block that was freed, up to 32 MiB: then
what a burst of 12 MB frames took stays with the process (429 MB after ten clients that did not
read, 88 so set). It is more than the 256 KiB that the event loop reads at once: with these the
pages of each piece of a body were made anew, and 20 MB took twice the time."""
FREE_BYTES: Final = 16 * BLOCK_BYTES
"""Bytes of free memory at the end of the heap that stay with the process (16 MiB); when there are
more all of them go back to the system. glibc's own bound is 128 KiB once BLOCK_BYTES is set: then
the pages of each frame of 100 KB were given back and made anew, which was a third of what it took
to pass one on. With 4 MiB the same happened with twenty clients that had eight frames each on their
way."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def give_back_large_blocks() -> bool:
    """For a process of our own. False where the C library is not glibc: nothing happens there."""
    try:
        libc = ctypes.CDLL(None)
        return bool(
            libc.mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES)
            and libc.mallopt(_M_TRIM_THRESHOLD, FREE_BYTES)
        )
    except (AttributeError, OSError, TypeError):
        return False
