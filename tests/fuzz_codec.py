"""Any byte string gives TargetRows or WireError, in bounded time and memory: `make fuzz`.

libFuzzer mutates what it finds interesting; a checksum would stop nearly all of it at the door. So
an input is read in one of three ways, by its first byte: as a block, as what follows the header of
a block, or as sections whose bodies are plain and are then framed as an encoder would.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]
import zstandard

with atheris.instrument_imports():  # pyright: ignore[reportAttributeAccessIssue]
    from protos import codec
from tests.support.blocks import ZSTD, Part, join, take_apart, with_checksum

NUM_ROWS, VOCAB_SIZE = 3, 70
# Small, so that what a header may claim and a run of millions can hold are the same.
LIMITS = codec.BlockLimits(max_rows=64, max_entries=4096, max_decoded_bytes=1 << 16)
AS_BLOCK, AS_REST, AS_SECTIONS = range(3)
# Id, flags and length of a section's plain body.
HEAD = struct.Struct("<BBB")
NUM_IDS = 6
CORPUS = Path("bench/fuzz")


def test_one_input(content: bytes) -> None:
    """Decode; what is not refused must be rows that encode and decode to themselves."""
    try:
        rows = codec.decode(
            to_block(content), num_rows=NUM_ROWS, vocab_size=VOCAB_SIZE, limits=LIMITS
        )
    except codec.WireError:
        return
    again = codec.decode(codec.encode(rows, codec.UINT8), num_rows=NUM_ROWS, vocab_size=VOCAB_SIZE)
    assert rows.ids_E.tolist() == again.ids_E.tolist()
    assert rows.masses.keys() == again.masses.keys()


def to_block(content: bytes) -> bytes:
    """The block that an input stands for."""
    way, rest = content[:1], content[1:]
    if not rest or way[0] % 3 == AS_BLOCK:
        return rest
    if way[0] % 3 == AS_REST:
        start = join(VOCAB_SIZE, NUM_ROWS, [])
        return with_checksum(start[:5] + rest[:1] + start[6:] + rest[1:])
    return join(VOCAB_SIZE, NUM_ROWS, list(to_parts(rest))[:255])


def to_parts(content: bytes) -> Iterator[Part]:
    """Sections whose ids are mostly known; bodies with the flag of zstd are compressed."""
    while len(content) >= HEAD.size:
        number, flags, length = HEAD.unpack_from(content)
        body = content[HEAD.size : HEAD.size + length]
        content = content[HEAD.size + length :]
        if flags & ZSTD:
            body = zstandard.compress(body)[4:]
        yield Part(number % NUM_IDS, flags, body)


def seeds() -> list[bytes]:
    """Inputs to start from: one of each way, all of the same good rows."""
    ids = struct.pack("<4H", 2, 2, 1, 0) + bytes([5, 9]) + bytes([0, 0, 1])
    tail = struct.pack("<3f", 0.1, 0.5, 1.0)
    values = bytes([codec.FLOAT32]) + struct.pack("<3f", -0.8, -0.8, -0.69)
    mass = b"\x09item_mass" + struct.pack("<3f", 0.2, 0.3, 0.4)
    bodies = {1: (3, ids), 2: (1, tail), 3: (1, values), 4: (2, mass), 5: (0, b"skipped")}
    sections = b"".join(
        HEAD.pack(number, flags, len(body)) + body for number, (flags, body) in bodies.items()
    )
    block = to_block(bytes([AS_SECTIONS]) + sections)
    assert len(take_apart(block)) == len(bodies)
    return [
        bytes([AS_SECTIONS]) + sections,
        bytes([AS_REST]) + block[5:6] + block[18:],
        bytes([AS_BLOCK]) + block,
    ]


def main() -> None:
    """Run libFuzzer over bench/fuzz with the flags of the command line."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (CORPUS / f"seed{number}").write_bytes(seed)
    # Atheris itself keeps some 160 bytes per input, so millions of them take a gigabyte.
    limits = ["-rss_limit_mb=2048", "-timeout=5", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(CORPUS)], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
