"""Any byte string gives TargetRows or WireError, in bounded time and memory: `make fuzz`.

libFuzzer mutates what it finds interesting; a zstd checksum would stop nearly all of it at the
door. So an input is read in one of two ways, by its first byte: as a block, or as the columns of
one, which are then framed as an encoder would.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]
import zstandard

with atheris.instrument_imports():  # pyright: ignore[reportAttributeAccessIssue]
    from protos import codec
    from protos.value_formats import BY_NUMBER

NUM_ROWS, VOCAB_SIZE = 3, 70
# Small, so that what a header may claim and a run of millions can hold are the same.
LIMITS = codec.BlockLimits(max_rows=64, max_entries=4096, max_decoded_bytes=1 << 16)
SIZES = struct.Struct("<BHBBB")
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


def to_block(content: bytes) -> bytes:
    """The block that an input stands for."""
    if len(content) < SIZES.size or content[0] % 4 == 0:
        return content[1:]
    values, entries, distinct, table_escapes, gap_escapes = SIZES.unpack_from(content)
    shape = (values % 4, VOCAB_SIZE, NUM_ROWS, entries, distinct, table_escapes, gap_escapes)
    header = codec.Header(*shape, 0)
    if header.values not in BY_NUMBER or entries > LIMITS.max_entries:
        return header.pack()
    body = content[SIZES.size :].ljust(header.index_bytes + header.value_bytes, b"\0")
    index = zstandard.compress(body[: header.index_bytes])
    values_end = header.index_bytes + header.value_bytes
    framed = codec.Header(*shape, len(index)).pack()
    return framed + index + zstandard.compress(body[header.index_bytes : values_end])


def seeds() -> list[bytes]:
    """Inputs to start from: a whole block, and columns of good rows."""
    counts, table, gaps = struct.pack("<3H", 2, 1, 0), bytes([5, 9]), bytes([0, 0, 1])
    masses = struct.pack("<6f", 0.1, 0.5, 1.0, 0.2, 0.3, 0.4)
    log_probs = struct.pack("<3f", -0.8, -0.8, -0.69)
    columns = counts + table + gaps + masses + log_probs
    as_columns = SIZES.pack(1, 3, 2, 0, 0) + columns
    return [as_columns, b"\0" + to_block(as_columns)]


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
