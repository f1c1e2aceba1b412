"""Rows of one example <-> the bytes that the target cache keeps of them, exact to the last bit.

    checksum   16 bytes, BLAKE2b of the key and of all that follows
    rows       uint32   length uint32, of the block
    block      protos/codec.py: the rows of this example, in the precision they came in
    residue    nothing, or a zstd frame of int8 or int32 [E + 2 R]

The rows come from a decoded block of a whole batch, and coding them again is not exact: the bounds
of a row of 8-bit values may move by a rounding, and rows that 8 bits pushed out of the tolerance of
exact rows are refused. So what decoding the block anew misses is kept beside it, as differences of
the bits of log-probs, tails and item masses: nearly always nothing.

R rows, E entries of all rows together.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
import zstandard

from protos import codec
from protos.codec import TargetRows, WireError

CHECKSUM_BYTES = 16
ZSTD_LEVEL = 3
SIZES = struct.Struct("<II")  # rows, bytes of the block
# The block passed the wire's checks; the residue may not lead far away from it.
MAX_RESIDUE = 0.25


def split_rows(rows: TargetRows, lengths: Sequence[int]) -> list[TargetRows]:
    """The rows of each example; lengths must sum to the number of rows."""
    if sum(lengths) != rows.num_rows:
        raise ValueError(f"lengths must sum to the {rows.num_rows} rows, got {sum(lengths)}.")
    ends_R1 = np.concatenate([[0], np.cumsum(rows.counts_R, dtype=np.int64)])
    parts = []
    start = 0
    for length in lengths:
        row, entry = slice(start, start + length), slice(ends_R1[start], ends_R1[start + length])
        parts.append(
            TargetRows(
                counts_R=rows.counts_R[row],
                ids_E=rows.ids_E[entry],
                log_probs_E=rows.log_probs_E[entry],
                tail_R=rows.tail_R[row],
                item_mass_R=rows.item_mass_R[row],
                vocab_size=rows.vocab_size,
            )
        )
        start += length
    return parts


def pack(key: bytes, rows: TargetRows, values: int) -> bytes:
    """The value of a key: rows of one example, in the wire's format of values.

    Raises:
        ValueError: if the codec does not take the rows or gives back others.
    """
    try:
        block = codec.encode(rows, values)
    except ValueError:
        block = codec.encode(_rescaled(rows), values)
    try:
        again = codec.decode(block, num_rows=rows.num_rows, vocab_size=rows.vocab_size)
    except WireError as error:
        raise ValueError(str(error)) from error
    same_ids = np.array_equal(rows.counts_R, again.counts_R)
    if not (same_ids and np.array_equal(rows.ids_E, again.ids_E)):
        raise ValueError("ids and counts must come back from the codec as they were, got others.")
    residue = _residue(rows, again)
    body = SIZES.pack(rows.num_rows, len(block)) + block + residue
    return _checksum(key, body) + body


def unpack(key: bytes, value: bytes, *, vocab_size: int, num_rows: int | None = None) -> TargetRows:
    """The rows that were packed, bit for bit.

    Args:
        key: under which the value was found; a value of another key is refused.
        value: bytes from a disk, trusted in nothing.
        vocab_size: the student's own V.
        num_rows: the rows asked for; None takes as many as there are.

    Raises:
        WireError: if anything about the value is not as it was written, or not as asked.
    """
    body = value[CHECKSUM_BYTES:]
    if len(body) < SIZES.size or value[:CHECKSUM_BYTES] != _checksum(key, body):
        raise WireError(f"a cached value must have its checksum, got {len(value)} other bytes.")
    stored_rows, block_bytes = SIZES.unpack_from(body)
    end = SIZES.size + block_bytes
    if end > len(body):
        raise WireError(f"a cached block must have {block_bytes} bytes, got {len(body)} in all.")
    rows = codec.decode(
        body[SIZES.size : end],
        num_rows=stored_rows if num_rows is None else num_rows,
        vocab_size=vocab_size,
    )
    return rows if end == len(body) else _with_residue(rows, body[end:])


def _checksum(key: bytes, body: bytes) -> bytes:
    sha = hashlib.blake2b(key, digest_size=CHECKSUM_BYTES)
    sha.update(body)
    return sha.digest()


def _rescaled(rows: TargetRows) -> TargetRows:
    """The rows with kept masses of exactly 1 - tail, which the codec takes as exact ones."""
    row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
    probs_E = np.exp(rows.log_probs_E.astype(np.float64))
    kept_R = np.bincount(row_E, weights=probs_E, minlength=rows.num_rows)
    # Rows without entries have no kept mass to scale.
    scale_R = np.maximum(1.0 - rows.tail_R, 1e-9) / np.maximum(kept_R, 1e-9)
    log_probs_E = rows.log_probs_E + np.log(scale_R)[row_E]
    return TargetRows(
        counts_R=rows.counts_R,
        ids_E=rows.ids_E,
        log_probs_E=np.minimum(log_probs_E, 0.0).astype(np.float32),
        tail_R=rows.tail_R,
        item_mass_R=rows.item_mass_R,
        vocab_size=rows.vocab_size,
    )


def _residue(rows: TargetRows, again: TargetRows) -> bytes:
    wanted_N, got_N = _floats(rows), _floats(again)
    if np.array_equal(wanted_N.view(np.int32), got_N.view(np.int32)):
        return b""
    _check_near(wanted_N, got_N, ValueError)
    # Whatever wraps in int32 here wraps back on the way in.
    difference_N = wanted_N.view(np.int32) - got_N.view(np.int32)
    if np.array_equal(difference_N, difference_N.astype(np.int8)):
        difference_N = difference_N.astype(np.int8)
    else:
        difference_N = difference_N.astype("<i4")
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    return compressor.compress(difference_N.tobytes())


def _with_residue(rows: TargetRows, frame: bytes) -> TargetRows:
    got_N = _floats(rows)
    difference_N = _decompress(frame, len(got_N)).astype(np.int32)
    floats_N = (got_N.view(np.int32) + difference_N).view(np.float32)
    _check_near(floats_N, got_N, WireError)
    log_probs_E, tail_R, item_mass_R = np.split(
        floats_N, [len(rows.ids_E), len(rows.ids_E) + rows.num_rows]
    )
    return TargetRows(
        counts_R=rows.counts_R,
        ids_E=rows.ids_E,
        log_probs_E=log_probs_E,
        tail_R=tail_R,
        item_mass_R=item_mass_R,
        vocab_size=rows.vocab_size,
    )


def _decompress(frame: bytes, length: int) -> np.ndarray:
    try:
        # The frame's own claim is checked first: decompress() allocates what the frame says.
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed not in (length, 4 * length):
            raise WireError(f"residue must hold {length} differences, claims {claimed} bytes.")
        body = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"residue must be whole, got: {error}.") from error
    return np.frombuffer(body, np.int8 if len(body) == length else np.dtype("<i4"))


def _check_near(wanted_N: np.ndarray, got_N: np.ndarray, error: type[Exception]) -> None:
    # Written so that NaN fails too.
    if not bool(np.all(np.abs(wanted_N - got_N) <= MAX_RESIDUE)):
        raise error(f"residue must stay within {MAX_RESIDUE} of the block, got more.")


def _floats(rows: TargetRows) -> np.ndarray:
    columns = [rows.log_probs_E, rows.tail_R, rows.item_mass_R]
    return np.concatenate(columns).astype(np.float32)
