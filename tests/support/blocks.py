"""Reply blocks made and taken apart one field at a time, by docs/wire.md alone.

The slow twin of protos/block_frame.py and protos/codec.py: nothing of them is used here.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import zstandard

IDS, TAIL, VALUES, MASS = 1, 2, 3, 4
REQUIRED, ZSTD = 1, 2
ZSTD_MAGIC = bytes.fromhex("28b52ffd")
FLOAT32, FLOAT16, UINT8 = 1, 2, 3


@dataclass(frozen=True)
class Part:
    """A section as it lies in a block."""

    number: int
    flags: int
    body: bytes

    def plain(self) -> bytes:
        if self.flags & ZSTD:
            return zstandard.ZstdDecompressor().decompress(ZSTD_MAGIC + self.body)
        return self.body


def join(vocab_size: int, num_rows: int, parts: list[Part]) -> bytes:
    """A block of these sections, whatever they hold, with its checksum."""
    start = b"CKB3" + bytes([1, len(parts)]) + struct.pack("<II", vocab_size, num_rows)
    rest = b""
    for part in parts:
        rest += struct.pack("<H", part.number) + bytes([part.flags])
        rest += struct.pack("<I", len(part.body)) + part.body
    return with_checksum(start + bytes(4) + rest)


def with_checksum(block: bytes) -> bytes:
    """The block with the checksum that its other bytes have."""
    start, rest = block[:14], block[18:]
    return start + struct.pack("<I", zlib.crc32(start + rest)) + rest


def take_apart(block: bytes) -> list[Part]:
    """The sections of a good block, byte by byte."""
    assert block[:4] == b"CKB3"
    assert block[4] == 1
    assert struct.unpack("<I", block[14:18])[0] == zlib.crc32(block[:14] + block[18:])
    parts, at = [], 18
    for _ in range(block[5]):
        number = block[at] + 256 * block[at + 1]
        length = sum(block[at + 3 + byte] << 8 * byte for byte in range(4))
        parts.append(Part(number, block[at + 2], block[at + 7 : at + 7 + length]))
        at += 7 + length
    assert at == len(block)
    return parts


def decode_slowly(block: bytes) -> dict[str, Any]:
    """The rows of a good block: ids and log-probs of each row, tail, and masses by name."""
    vocab_size, num_rows = struct.unpack("<II", block[6:14])
    masses: dict[str, list[float]] = {}
    rows: dict[str, Any] = {"masses": masses}
    for part in take_apart(block):
        reader = _Reader(part.plain())
        if part.number == IDS:
            rows["ids"] = _ids(reader, num_rows, vocab_size)
        elif part.number == TAIL:
            rows["tail"] = [reader.take("<f") for _ in range(num_rows)]
        elif part.number == VALUES:
            rows["log_probs"] = _log_probs(reader, [len(ids) for ids in rows["ids"]])
        elif part.number == MASS:
            name = "".join(chr(reader.take("<B")) for _ in range(reader.take("<B")))
            masses[name] = [reader.take("<f") for _ in range(num_rows)]
        assert reader.at == len(reader.content)
    return rows


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return value

    def take_small(self, count: int) -> list[int]:
        small = [self.take("<B") for _ in range(count)]
        return [self.take("<I") if each == 255 else each for each in small]


def _ids(reader: _Reader, num_rows: int, vocab_size: int) -> list[list[int]]:
    number = "<H" if vocab_size < 65_536 else "<I"
    num_distinct = reader.take(number)
    counts = [reader.take(number) for _ in range(num_rows)]
    table, before = [], 0
    for step in reader.take_small(num_distinct):
        before = (before + step) % vocab_size
        table.append(before)
    gaps = iter(reader.take_small(sum(counts)))
    rows = []
    for count in counts:
        rank, ranks = -1, []
        for _ in range(count):
            rank += 1 + next(gaps)
            ranks.append(rank)
        rows.append(sorted(table[rank] for rank in ranks))
    return rows


def _log_probs(reader: _Reader, counts: list[int]) -> list[list[float]]:
    form = {FLOAT32: "<f", FLOAT16: "<e", UINT8: "<B"}[values := reader.take("<B")]
    rows = []
    for count in counts:
        row = [reader.take(form) for _ in range(count)]
        if values == UINT8:
            mu = max(1.0, count**1.5 / 32)
            parts = [max(code, 0.3) / 255 for code in row]
            row = [math.log(math.expm1(part * math.log1p(mu)) / mu) for part in parts]
        rows.append(row)
    return rows
