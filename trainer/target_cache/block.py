"""Rows of one example <-> the bytes that the target cache keeps of them, exact to the last bit.

    checksum   16 bytes, BLAKE2b of the key and of all that follows
    rows       uint32
    block      protos/codec.py: the rows of this example, in the precision they came in

The rows come from a decoded block of a whole batch; coded again they keep their bits.

R rows, E entries of all rows together.
"""

from __future__ import annotations

import hashlib
import struct

from protos import codec
from protos.codec import TargetRows, WireError
from trainer.common.errors import InputError

CHECKSUM_BYTES = 16
NUM_ROWS = struct.Struct("<I")


def pack(key: bytes, rows: TargetRows, values: int) -> bytes:
    """The value of a key: rows of one example, in the wire's format of values.

    Raises:
        InputError: if the rows are not what the codec gives back: they came in another precision.
    """
    block = codec.encode(rows, values)
    again = codec.decode(block, num_rows=rows.num_rows, vocab_size=rows.vocab_size)
    decoded = again.arrays
    for name, array in rows.arrays.items():
        if array.tobytes() != decoded[name].tobytes():
            raise InputError(
                f"{name} must come back from the codec bit for bit, got others. Ask for the "
                "precision in which they came."
            )
    body = NUM_ROWS.pack(rows.num_rows) + block
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
    if len(body) < NUM_ROWS.size or value[:CHECKSUM_BYTES] != _checksum(key, body):
        raise WireError(f"a cached value must have its checksum, got {len(value)} other bytes.")
    (stored_rows,) = NUM_ROWS.unpack_from(body)
    return codec.decode(
        body[NUM_ROWS.size :],
        num_rows=stored_rows if num_rows is None else num_rows,
        vocab_size=vocab_size,
    )


def _checksum(key: bytes, body: bytes) -> bytes:
    digest = hashlib.blake2b(key, digest_size=CHECKSUM_BYTES)
    digest.update(body)
    return digest.digest()
