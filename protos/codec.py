"""Rows of a truncated teacher distribution <-> the bytes of one reply block.

A block is a fixed header and one zstd frame (with content checksum) that holds columns, not rows:

    header   magic "CKB1", version, value format, vocabulary size, rows, entries, decoded bytes
    counts   uint16/uint32 [R]  entries per row
    ids      uint16/int32  [E]  ascending within a row
    values   float32, float16 or uint8 [E]  log-probs; uint8 is linear between the row's two bounds
    bounds   float32 [R, 2] (uint8 only)  largest and smallest log-prob of the row
    tail     float32 [R]    mass of the support that was not sent, exactly 0 where all of it was
    item_mass float32 [R]   mass on ALL items, summed before truncation

A decoder checks every header field against its limits BEFORE it allocates, and every column after.

R rows, E entries of all rows together, V vocabulary.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

FORMAT_VERSION = 1
MAGIC = b"CKB1"
HEADER = struct.Struct(
    "<4sHHIIII"
)  # magic, version, values, vocab_size, rows, entries, decoded bytes
VALUE_DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f2"), 3: np.dtype("u1")}  # protos.ValueFormat
FLOAT32, FLOAT16, UINT8 = 1, 2, 3
ZSTD_LEVEL = 3
MASS_TOLERANCE = 1e-3
# Rounding of float16 and of sums over a whole vocabulary.
ROW_MASS_TOLERANCE = 1e-2


class WireError(Exception):
    """A block that is corrupt, short, oversized or made for another vocabulary."""


@dataclass(frozen=True, kw_only=True)
class BlockLimits:
    """What a decoder is ready to allocate for one block."""

    max_rows: int = 1 << 17
    max_entries: int = 1 << 26
    max_decoded_bytes: int = 1 << 29


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetRows:
    """Truncated distributions, one per row, as columns.

    Attributes:
        counts_R: int32 [R], entries kept in each row.
        ids_E: int32 [E], vocabulary ids, ascending within a row.
        log_probs_E: float32 [E], natural log, <= 0 up to rounding.
        tail_R: float32 [R], mass of the row's support that was not kept, in [0, 1].
        item_mass_R: float32 [R], mass on all items before truncation, in [0, 1].
        vocab_size: V, every id is below it.
    """

    counts_R: np.ndarray
    ids_E: np.ndarray
    log_probs_E: np.ndarray
    tail_R: np.ndarray
    item_mass_R: np.ndarray
    vocab_size: int

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.counts_R)


def concat_rows(parts: Sequence[TargetRows]) -> TargetRows:
    """The rows of all parts one after another; at least one part of one vocabulary."""
    return TargetRows(
        counts_R=np.concatenate([part.counts_R for part in parts]),
        ids_E=np.concatenate([part.ids_E for part in parts]),
        log_probs_E=np.concatenate([part.log_probs_E for part in parts]),
        tail_R=np.concatenate([part.tail_R for part in parts]),
        item_mass_R=np.concatenate([part.item_mass_R for part in parts]),
        vocab_size=parts[0].vocab_size,
    )


def encode(rows: TargetRows, values: int = FLOAT32) -> bytes:
    """One reply block.

    Args:
        rows: what to send; checked by the same rules as a decoder's.
        values: FLOAT32 (exact), FLOAT16, or UINT8 (error at most 1/510 of the row's range in nats).

    Raises:
        ValueError: if the rows break a rule of TargetRows or `values` is no known format.
    """
    if values not in VALUE_DTYPES:
        raise ValueError(f"values must be one of {sorted(VALUE_DTYPES)}, got {values}.")
    try:
        check_rows(rows)
    except WireError as error:
        raise ValueError(str(error)) from error
    columns = [
        rows.counts_R.astype(_count_dtype(rows.vocab_size)),
        rows.ids_E.astype(_id_dtype(rows.vocab_size)),
        *_pack_values(rows, values),
        rows.tail_R.astype("<f4"),
        rows.item_mass_R.astype("<f4"),
    ]
    body = b"".join(column.tobytes() for column in columns)
    header = HEADER.pack(
        MAGIC, FORMAT_VERSION, values, rows.vocab_size, rows.num_rows, len(rows.ids_E), len(body)
    )
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    return header + compressor.compress(body)


def decode(
    block: bytes, *, num_rows: int, vocab_size: int, limits: BlockLimits | None = None
) -> TargetRows:
    """The rows of one reply block.

    Args:
        block: bytes from the network, trusted in nothing.
        num_rows: the rows that were asked for; a block of any other number is refused.
        vocab_size: the student's own V.
        limits: what may be allocated.

    Raises:
        WireError: if anything about the block is not as announced and asked.
    """
    limits = limits or BlockLimits()
    values, num_entries, body = _open_block(block, num_rows, vocab_size, limits)
    columns = _Columns(body)
    wire_counts_R = columns.take(num_rows, _count_dtype(vocab_size))
    # Summed before the cast: a count of 2^32 - 1 must not become -1.
    if int(wire_counts_R.sum(dtype=np.uint64)) != num_entries:
        raise WireError(f"row counts must sum to {num_entries} entries, got another sum.")
    counts_R = wire_counts_R.astype(np.int32)
    ids_E = columns.take(num_entries, _id_dtype(vocab_size)).astype(np.int32)
    log_probs_E = _unpack_values(columns, values, counts_R, num_entries)
    rows = TargetRows(
        counts_R=counts_R,
        ids_E=ids_E,
        log_probs_E=log_probs_E,
        tail_R=columns.take(num_rows, np.dtype("<f4")).copy(),
        item_mass_R=columns.take(num_rows, np.dtype("<f4")).copy(),
        vocab_size=vocab_size,
    )
    check_rows(rows, quantised=values == UINT8)
    return rows


def check_rows(rows: TargetRows, *, quantised: bool = False) -> None:
    """Raise WireError unless the columns agree with each other and hold distributions.

    Args:
        rows: the columns.
        quantised: whether log-probs may be off by half a step of 8 bits over their row's range.
    """
    num_rows, num_entries = rows.num_rows, len(rows.ids_E)
    if len(rows.tail_R) != num_rows or len(rows.item_mass_R) != num_rows:
        raise WireError(f"tail and item mass must have {num_rows} rows.")
    if num_rows and int(rows.counts_R.min()) < 0:
        raise WireError(f"row counts must be >= 0, got {rows.counts_R.min()}.")
    if len(rows.log_probs_E) != num_entries or int(rows.counts_R.sum()) != num_entries:
        raise WireError(f"ids and log-probs must have one entry each, got {num_entries} ids.")
    for name, mass_R in (("tail", rows.tail_R), ("item mass", rows.item_mass_R)):
        # Written so that NaN fails too.
        if not bool(np.all((mass_R >= 0) & (mass_R <= 1 + MASS_TOLERANCE))):
            raise WireError(f"{name} must be in [0, 1].")
    if not bool(np.all((rows.log_probs_E <= MASS_TOLERANCE) & np.isfinite(rows.log_probs_E))):
        raise WireError("log-probs must be finite and <= 0.")
    _check_ids(rows)
    _check_mass(rows, quantised=quantised)


def _check_mass(rows: TargetRows, *, quantised: bool) -> None:
    probs_E = np.exp(rows.log_probs_E.astype(np.float64))
    row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
    kept_R = np.bincount(row_E, weights=probs_E, minlength=rows.num_rows)
    allowed_R = np.full(rows.num_rows, ROW_MASS_TOLERANCE)
    if quantised:
        high_R, low_R = _row_bounds(rows)
        allowed_R += kept_R * np.expm1(np.minimum((high_R - low_R) / 510.0, 1.0))
    off_R = np.abs(kept_R + rows.tail_R - 1.0) - allowed_R
    if rows.num_rows and float(off_R.max()) > 0:
        row = int(off_R.argmax())
        raise WireError(
            f"kept mass and tail must make 1, got {kept_R[row]:.3f} and {rows.tail_R[row]:.3f}."
        )


def _check_ids(rows: TargetRows) -> None:
    ids_E = rows.ids_E
    if len(ids_E) == 0:
        return
    if int(ids_E.min()) < 0 or int(ids_E.max()) >= rows.vocab_size:
        raise WireError(f"ids must be in [0, {rows.vocab_size}), got {ids_E.min()}..{ids_E.max()}.")
    starts_row_E = np.zeros(len(ids_E) + 1, dtype=bool)
    starts_row_E[np.cumsum(rows.counts_R)[:-1]] = True
    if not bool(np.all((ids_E[1:] > ids_E[:-1]) | starts_row_E[1:-1])):
        raise WireError("ids must ascend within a row.")


def _open_block(
    block: bytes, num_rows: int, vocab_size: int, limits: BlockLimits
) -> tuple[int, int, memoryview]:
    if len(block) < HEADER.size:
        raise WireError(f"block must be at least {HEADER.size} bytes, got {len(block)}.")
    magic, version, values, block_vocab, block_rows, entries, body_bytes = HEADER.unpack_from(block)
    if magic != MAGIC or version != FORMAT_VERSION or values not in VALUE_DTYPES:
        raise WireError(
            f"block must be {MAGIC!r} version {FORMAT_VERSION}, got {magic!r} version {version} "
            f"with values in format {values}. Run the same release on both ends."
        )
    if block_vocab != vocab_size:
        raise WireError(f"block must be for {vocab_size} vocabulary entries, got {block_vocab}.")
    if block_rows != num_rows or num_rows > limits.max_rows:
        raise WireError(f"block must hold the {num_rows} rows asked for, got {block_rows}.")
    if entries > limits.max_entries or body_bytes > limits.max_decoded_bytes:
        raise WireError(f"block must stay under {limits}, got {entries} entries, {body_bytes} B.")
    if body_bytes != _body_bytes(num_rows, entries, values, vocab_size):
        raise WireError(f"body of {num_rows} rows, {entries} entries cannot be {body_bytes} bytes.")
    return values, entries, memoryview(_decompress(block[HEADER.size :], body_bytes))


def _decompress(frame: bytes, body_bytes: int) -> bytes:
    try:
        # The frame's own claim is checked first: decompress() allocates what the frame says.
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed != body_bytes:
            raise WireError(f"zstd frame must hold {body_bytes} bytes, claims {claimed}.")
        body = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"zstd frame must be whole, got: {error}.") from error
    if len(body) != body_bytes:
        raise WireError(f"zstd frame must hold {body_bytes} bytes, got {len(body)}.")
    return body


def _body_bytes(num_rows: int, num_entries: int, values: int, vocab_size: int) -> int:
    per_entry = _id_dtype(vocab_size).itemsize + VALUE_DTYPES[values].itemsize
    per_row = _count_dtype(vocab_size).itemsize + 8 + (8 if values == UINT8 else 0)
    return num_rows * per_row + num_entries * per_entry


def _id_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<i4")


def _count_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2") if vocab_size < 1 << 16 else np.dtype("<u4")


def _pack_values(rows: TargetRows, values: int) -> list[np.ndarray]:
    if values != UINT8:
        return [rows.log_probs_E.astype(VALUE_DTYPES[values])]
    high_R, low_R = _row_bounds(rows)
    high_E, low_E = np.repeat(high_R, rows.counts_R), np.repeat(low_R, rows.counts_R)
    scale_E = np.where(high_E > low_E, 255.0 / np.maximum(high_E - low_E, 1e-30), 0.0)
    quantised_E = np.rint((rows.log_probs_E - low_E) * scale_E).astype(np.uint8)
    return [quantised_E, np.stack([high_R, low_R], axis=1).astype("<f4")]


def _row_bounds(rows: TargetRows) -> tuple[np.ndarray, np.ndarray]:
    high_R = np.zeros(rows.num_rows, np.float32)
    low_R = np.zeros(rows.num_rows, np.float32)
    filled_R = rows.counts_R > 0
    starts = (np.cumsum(rows.counts_R) - rows.counts_R)[filled_R]
    if len(starts):
        high_R[filled_R] = np.maximum.reduceat(rows.log_probs_E, starts)
        low_R[filled_R] = np.minimum.reduceat(rows.log_probs_E, starts)
    return high_R, low_R


def _unpack_values(
    columns: _Columns, values: int, counts_R: np.ndarray, num_entries: int
) -> np.ndarray:
    packed_E = columns.take(num_entries, VALUE_DTYPES[values])
    if values != UINT8:
        return packed_E.astype(np.float32)
    bounds_R2 = columns.take(2 * len(counts_R), np.dtype("<f4")).reshape(-1, 2)
    high_E, low_E = np.repeat(bounds_R2[:, 0], counts_R), np.repeat(bounds_R2[:, 1], counts_R)
    return (low_E + packed_E * ((high_E - low_E) / 255.0)).astype(np.float32)


class _Columns:
    """Reads columns one after another from a body whose size was checked."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._offset = 0

    def take(self, count: int, dtype: np.dtype) -> np.ndarray:
        column = np.frombuffer(self._body, dtype=dtype, count=count, offset=self._offset)
        self._offset += count * dtype.itemsize
        return column
