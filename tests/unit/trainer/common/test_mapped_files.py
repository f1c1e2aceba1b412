"""Pages of mapped files, and which of them are given back."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.common.mapped_files import give_back, mapped_ranges

PAGE = mmap.PAGESIZE


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[tuple[mmap.mmap, int, bytes]]:
    """Four pages of a file, private to this process; their address and content."""
    content = bytes(range(256)) * (4 * PAGE // 256)
    path = tmp_path / "some name.mapped"
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
        anchor = ctypes.c_char.from_buffer(pages)
        yield pages, ctypes.addressof(anchor), content
        del anchor


def test_ranges_are_those_of_the_files_with_the_suffix(
    mapped: tuple[mmap.mmap, int, bytes],
) -> None:
    _, address, content = mapped
    assert mapped_ranges("some name.mapped") == [range(address, address + len(content))]
    assert mapped_ranges("no such name.mapped") == []


def test_whole_pages_inside_the_ranges_go_and_come_back(
    mapped: tuple[mmap.mmap, int, bytes],
) -> None:
    pages, address, content = mapped
    ranges = mapped_ranges(".mapped")
    assert give_back(address, 4 * PAGE, ranges) == 4 * PAGE
    # A part of the pages at both ends is somebody else's.
    assert give_back(address + 1, 3 * PAGE, ranges) == 2 * PAGE
    assert give_back(address + 1, PAGE, ranges) == 0
    assert bytes(pages) == content


def test_memory_outside_the_ranges_is_left_alone(mapped: tuple[mmap.mmap, int, bytes]) -> None:
    _, address, _ = mapped
    assert give_back(address, 4 * PAGE, []) == 0
    assert give_back(address, 4 * PAGE, [range(address, address + 3 * PAGE)]) == 0


def test_maps_of_the_kernel_are_read_as_it_writes_them(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f10 r--p 00000000 08:01 12   /a/model.safetensors\n"
        "7f10-7f20 rw-p 00000000 00:00 0 \n"
        "7f20-7f30 r-xp 00001000 08:01 13   /usr/lib/libc.so.6\n"
    )
    assert mapped_ranges(".safetensors", maps) == [range(0x7F00, 0x7F10)]
