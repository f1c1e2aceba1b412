"""Files that are mapped into this process: which addresses they have, and how their pages go back.

A page of a mapped file counts as memory of the process from when it is touched until it is given
back or the map ends, whether or not the machine would need it for anything else.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Sequence
from pathlib import Path

MAPS = Path("/proc/self/maps")


def mapped_ranges(suffix: str, maps: Path = MAPS) -> list[range]:
    """Addresses at which files whose names end in `suffix` are mapped; none where nobody tells."""
    found = []
    for line in maps.read_text().splitlines() if maps.exists() else ():
        # start-end permissions offset device inode path
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+)(?: +\S+){4} +(.+)", line)
        if match is not None and match[3].endswith(suffix):
            found.append(range(int(match[1], 16), int(match[2], 16)))
    return found


def give_back(address: int, num_bytes: int, ranges: Sequence[range]) -> int:
    """Take the whole pages of [address, address + num_bytes) out of this process's memory.

    Only inside `ranges`, and only for what was not written to: a page that is touched again is read
    from its file again.

    Returns:
        Bytes of the pages that went.
    """
    page = mmap.PAGESIZE
    # Not the pages at both ends: a part of them is somebody else's.
    first, last = -(-address // page) * page, (address + num_bytes) // page * page
    if last <= first or not any(it.start <= first and last <= it.stop for it in ranges):
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return last - first if advise(first, last - first, mmap.MADV_DONTNEED) == 0 else 0
