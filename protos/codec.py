"""Rows of a truncated teacher distribution <-> the bytes of one reply block; docs/wire.md.

A block is a fixed header and two zstd frames (with content checksums) that hold columns, not rows:

    header     magic "CKB2", version, value format, sizes of all columns and of the first frame
    counts     uint16/uint32 [R]  entries per row
    table      uint8 [D] + escapes uint32   the distinct ids, most frequent first
    gaps       uint8 [E] + escapes uint32   each row's ranks in the table (columns.py)
    tail       float32 [R]        mass of the support that was not sent, exactly 0 where all was
    item_mass  float32 [R]        mass on ALL items, summed before truncation
    values     float32, float16 or uint8 [E]  of log-probs, in a frame of their own

A decoder checks every header field against its limits BEFORE it allocates, and every column after.

R rows, E entries of all rows together, D distinct ids, V vocabulary.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import zstandard

from protos.columns import PackedIds, SmallNumbers, pack_ids, unpack_ids
from protos.target_rows import TargetRows, WireError, check_rows, concat_rows
from protos.value_formats import BY_NUMBER, FORMATS, ValueFormat

__all__ = ["TargetRows", "WireError", "check_rows", "concat_rows"]

FORMAT_VERSION = 2
MAGIC = b"CKB2"
FLOAT32, FLOAT16, UINT8 = (FORMATS[name].number for name in ("float32", "float16", "uint8"))
ZSTD_LEVEL = 3


@dataclass(frozen=True, kw_only=True)
class BlockLimits:
    """The most that a decoder allocates for one block."""

    max_rows: int = 1 << 17
    max_entries: int = 1 << 26
    max_decoded_bytes: int = 1 << 29


@dataclass(frozen=True)
class Header:
    """The sizes of everything in a block."""

    values: int
    vocab_size: int
    num_rows: int
    num_entries: int
    num_distinct: int
    num_table_escapes: int
    num_gap_escapes: int
    index_frame_bytes: int
    """Compressed bytes of the first frame; the second ends the block."""

    FORMAT = struct.Struct("<4sHHIIIIIII")

    @classmethod
    def of(cls, block: bytes) -> Header:
        """The header of a block, unchecked."""
        _, _, *fields = cls.FORMAT.unpack_from(block)
        return cls(*fields)

    def pack(self) -> bytes:
        """The first bytes of a block."""
        sizes = (self.vocab_size, self.num_rows, self.num_entries, self.num_distinct)
        rest = (self.num_table_escapes, self.num_gap_escapes, self.index_frame_bytes)
        return self.FORMAT.pack(MAGIC, FORMAT_VERSION, self.values, *sizes, *rest)

    @property
    def index_bytes(self) -> int:
        """Decoded bytes of the first frame."""
        escapes = self.num_table_escapes + self.num_gap_escapes
        per_row = count_dtype(self.vocab_size).itemsize + 8
        return self.num_rows * per_row + self.num_distinct + self.num_entries + 4 * escapes

    @property
    def value_bytes(self) -> int:
        """Decoded bytes of the second frame."""
        return self.num_entries * BY_NUMBER[self.values].dtype.itemsize


def encode(rows: TargetRows, values: int = FLOAT32) -> bytes:
    """One reply block.

    Args:
        rows: checked by the same rules as decoded rows.
        values: FLOAT32 (exact), FLOAT16, or UINT8 (docs/wire.md has its error).

    Raises:
        ValueError: if the rows break a rule of TargetRows or `values` is no known format.
    """
    if values not in BY_NUMBER:
        raise ValueError(f"values must be one of {sorted(BY_NUMBER)}, got {values}.")
    value_format = BY_NUMBER[values]
    try:
        # Rows that were received quantised may be sent on.
        check_rows(rows, _mass_error(rows, value_format))
    except WireError as error:
        raise ValueError(str(error)) from error
    packed = pack_ids(rows.ids_E, rows.counts_R, rows.vocab_size)
    columns = (
        rows.counts_R.astype(count_dtype(rows.vocab_size)),
        *(packed.table.bytes_N, packed.table.escapes),
        *(packed.gaps.bytes_N, packed.gaps.escapes),
        rows.tail_R.astype("<f4"),
        rows.item_mass_R.astype("<f4"),
    )
    index_frame = _compress(b"".join(column.tobytes() for column in columns))
    header = Header(
        values,
        rows.vocab_size,
        rows.num_rows,
        len(rows.ids_E),
        len(packed.table.bytes_N),
        len(packed.table.escapes),
        len(packed.gaps.escapes),
        len(index_frame),
    )
    value_column = value_format.encode(rows.log_probs_E, rows.counts_R)
    return header.pack() + index_frame + _compress_values(value_column.tobytes())


def decode(
    block: bytes, *, num_rows: int, vocab_size: int, limits: BlockLimits | None = None
) -> TargetRows:
    """The rows of one reply block.

    Args:
        block: untrusted bytes from the network.
        num_rows: the rows that were requested; a block of another number is refused.
        vocab_size: the student's own V.
        limits: the most that is allocated.

    Raises:
        WireError: if the block differs from its header or from the request.
    """
    header = _read_header(block, num_rows, vocab_size, limits or BlockLimits())
    values_at = Header.FORMAT.size + header.index_frame_bytes
    index = _Columns(_decompress(block[Header.FORMAT.size : values_at], header.index_bytes))
    value_column = _Columns(_decompress(block[values_at:], header.value_bytes))
    wire_counts_R = index.take(num_rows, count_dtype(vocab_size))
    # Summed before the cast: a count of 2^32 - 1 must not become -1.
    num_entries = int(wire_counts_R.sum(dtype=np.uint64))
    if num_entries != header.num_entries:
        raise WireError(f"row counts must sum to {header.num_entries}, got {num_entries}.")
    counts_R = wire_counts_R.astype(np.int32)
    table = _small_numbers(index, header.num_distinct, header.num_table_escapes)
    gaps = _small_numbers(index, header.num_entries, header.num_gap_escapes)
    value_format = BY_NUMBER[header.values]
    values_E = value_column.take(header.num_entries, value_format.dtype)
    rows = TargetRows(
        counts_R=counts_R,
        ids_E=unpack_ids(PackedIds(table, gaps), counts_R, vocab_size),
        log_probs_E=value_format.decode(values_E, counts_R),
        tail_R=index.take(num_rows, np.dtype("<f4")).copy(),
        item_mass_R=index.take(num_rows, np.dtype("<f4")).copy(),
        vocab_size=vocab_size,
    )
    check_rows(rows, _mass_error(rows, value_format))
    return rows


def count_dtype(vocab_size: int) -> np.dtype:
    """Type of a row's count on the wire; a row has at most V entries."""
    return np.dtype("<u2") if vocab_size < 1 << 16 else np.dtype("<u4")


def _mass_error(rows: TargetRows, value_format: ValueFormat) -> np.ndarray | float:
    if value_format.mass_error is None:
        return 0.0
    # Not checked yet: check_rows refuses a tail that is no number.
    with np.errstate(invalid="ignore"):
        return value_format.mass_error(np.clip(1.0 - rows.tail_R, 0.0, 1.0), rows.counts_R)


def _read_header(block: bytes, num_rows: int, vocab_size: int, limits: BlockLimits) -> Header:
    if len(block) < Header.FORMAT.size:
        raise WireError(f"block must be at least {Header.FORMAT.size} bytes, got {len(block)}.")
    magic, version, values, *sizes = Header.FORMAT.unpack_from(block)
    if magic != MAGIC or version != FORMAT_VERSION or values not in BY_NUMBER:
        raise WireError(
            f"block must be {MAGIC!r} version {FORMAT_VERSION}, got {magic!r} version {version} "
            f"with values in format {values}. Run the same release on both ends."
        )
    header = Header(values, *sizes)
    if header.vocab_size != vocab_size:
        raise WireError(
            f"block must be for {vocab_size} vocabulary entries, got {header.vocab_size}."
        )
    if header.num_rows != num_rows or num_rows > limits.max_rows:
        raise WireError(f"block must hold the {num_rows} rows asked for, got {header.num_rows}.")
    if header.num_distinct > min(header.num_entries, vocab_size) or (
        header.num_table_escapes > header.num_distinct
        or header.num_gap_escapes > header.num_entries
    ):
        raise WireError(f"a table cannot be longer than its entries, got {header}.")
    decoded = header.index_bytes + header.value_bytes
    if header.num_entries > limits.max_entries or decoded > limits.max_decoded_bytes:
        raise WireError(f"block must stay under {limits}, got {header}.")
    return header


def _compress(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(body)


def _compress_values(body: bytes) -> bytes:
    # Values repeat by chance alone: short matches cost more than they save.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL, min_match=7, write_checksum=True
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(body)


def _decompress(frame: bytes, body_bytes: int) -> bytes:
    try:
        # The frame's own claim is checked first: decompress() allocates what the frame says.
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed != body_bytes:
            raise WireError(f"zstd frame must claim {body_bytes} bytes, got {claimed}.")
        body = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"zstd frame must be whole, got: {error}.") from error
    if len(body) != body_bytes:
        raise WireError(f"zstd frame must hold {body_bytes} bytes, got {len(body)}.")
    return body


def _small_numbers(columns: _Columns, count: int, num_escapes: int) -> SmallNumbers:
    numbers = columns.take(count, np.dtype("u1"))
    return SmallNumbers(numbers, columns.take(num_escapes, np.dtype("<u4")))


class _Columns:
    """Reads columns one after another from a body whose size was checked."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._offset = 0

    def take(self, count: int, dtype: np.dtype) -> np.ndarray:
        column = np.frombuffer(self._body, dtype=dtype, count=count, offset=self._offset)
        self._offset += count * dtype.itemsize
        return column
