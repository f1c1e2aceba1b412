"""Rows of a truncated teacher distribution <-> the bytes of one reply block; docs/wire.md.

A block is a header and sections (block_frame.py), whose bodies hold columns, not rows:

    ids      distinct ids D, counts [R]: uint16, or uint32 where V needs it; two small columns:
             table  uint8 [D] + escapes uint32   the distinct ids, most frequent first
             gaps   uint8 [E] + escapes uint32   each row's ranks in the table (columns.py)
    tail     float32 [R]   mass of the support that was not sent, exactly 0 where all was
    values   value format uint8, then float32, float16 or uint8 [E]: log-probs
    mass     length of a name uint8, name, float32 [R]: mass on a group of ids, summed before
             truncation; a section per group, and none at all is a block too

A decoder checks every size against its limits BEFORE it allocates, and every column after.

R rows, E entries of all rows together, D distinct ids, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.block_frame import (
    REQUIRED,
    ZSTD,
    Header,
    PlainBodies,
    Section,
    SectionPacker,
    read_sections,
    write_block,
)
from protos.columns import PackedIds, SmallNumbers, pack_ids, unpack_ids
from protos.target_rows import (
    MAX_MASS_NAME,
    MAX_MASSES,
    TargetRows,
    WireError,
    check_rows,
    concat_rows,
)
from protos.value_formats import BY_NUMBER, FORMATS, ValueFormat

__all__ = ["TargetRows", "WireError", "check_rows", "concat_rows"]

FLOAT32, FLOAT16, UINT8 = (FORMATS[name].number for name in ("float32", "float16", "uint8"))
# Section ids. They are never reused; a new one is optional if old readers may go without it.
IDS, TAIL, VALUES, MASS = 1, 2, 3, 4
NEEDED = {IDS: "ids", TAIL: "tail", VALUES: "values"}
FLOAT = np.dtype("<f4")
# A number of the small columns: a byte, and its escape.
MAX_SMALL_BYTES = 5


@dataclass(frozen=True, kw_only=True)
class BlockLimits:
    """The most that a decoder allocates for one block."""

    max_rows: int = 1 << 17
    max_entries: int = 1 << 26
    max_decoded_bytes: int = 1 << 29


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
    value_column = value_format.encode(rows.log_probs_E, rows.counts_R)
    packer = SectionPacker()
    sections = [
        packer.pack(IDS, REQUIRED, _ids_body(rows)),
        packer.pack(TAIL, REQUIRED, rows.tail_R.astype(FLOAT).tobytes()),
        packer.pack_values(VALUES, REQUIRED, bytes([values]) + value_column.tobytes()),
    ]
    for name, mass_R in rows.masses.items():
        body = bytes([len(name)]) + name.encode("ascii") + mass_R.astype(FLOAT).tobytes()
        sections.append(packer.pack(MASS, 0, body))
    return write_block(rows.vocab_size, rows.num_rows, sections)


def decode(
    block: bytes,
    *,
    num_rows: int,
    vocab_size: int,
    values: int | None = None,
    limits: BlockLimits | None = None,
) -> TargetRows:
    """The rows of one reply block.

    Args:
        block: untrusted bytes from the network.
        num_rows: the rows that were requested; a block of another number is refused.
        vocab_size: the student's own V.
        values: the format that was requested; None takes any.
        limits: the most that is allocated.

    Raises:
        WireError: if the block is broken, or differs from the request.
    """
    limits = limits or BlockLimits()
    _check_header(Header.of(block), num_rows, vocab_size, limits)
    needed, mass_sections = _sort_sections(read_sections(block), limits)
    bodies = PlainBodies()
    longest = _max_ids_bytes(num_rows, vocab_size, limits)
    ids = _Columns(IDS, bodies.of(needed[IDS], longest))
    counts_R, ids_E = _read_ids(ids, num_rows, vocab_size, limits)
    tail = _Columns(TAIL, bodies.of(needed[TAIL], num_rows * FLOAT.itemsize))
    value_bytes = 1 + len(ids_E) * FLOAT.itemsize
    value_format, log_probs_E = _read_values(
        _Columns(VALUES, bodies.of(needed[VALUES], value_bytes)), counts_R, values
    )
    rows = TargetRows(
        counts_R=counts_R,
        ids_E=ids_E,
        log_probs_E=log_probs_E,
        tail_R=tail.take_last(num_rows, FLOAT).copy(),
        masses=_read_masses(mass_sections, bodies, num_rows),
        vocab_size=vocab_size,
    )
    check_rows(rows, _mass_error(rows, value_format))
    return rows


def count_dtype(vocab_size: int) -> np.dtype:
    """Type of D and of a row's count on the wire: both are at most V."""
    return np.dtype("<u2") if vocab_size < 1 << 16 else np.dtype("<u4")


def _mass_error(rows: TargetRows, value_format: ValueFormat) -> np.ndarray | float:
    if value_format.mass_error is None:
        return 0.0
    # Not checked yet: check_rows refuses a tail that is no number.
    with np.errstate(invalid="ignore"):
        return value_format.mass_error(np.clip(1.0 - rows.tail_R, 0.0, 1.0), rows.counts_R)


def _ids_body(rows: TargetRows) -> bytes:
    packed = pack_ids(rows.ids_E, rows.counts_R, rows.vocab_size)
    number = count_dtype(rows.vocab_size)
    columns = (
        np.array([len(packed.table.bytes_N)], number),
        rows.counts_R.astype(number),
        *(packed.table.bytes_N, packed.table.escapes),
        *(packed.gaps.bytes_N, packed.gaps.escapes),
    )
    return b"".join(column.tobytes() for column in columns)


def _max_ids_bytes(num_rows: int, vocab_size: int, limits: BlockLimits) -> int:
    numbers = limits.max_entries + min(limits.max_entries, vocab_size)
    return (1 + num_rows) * count_dtype(vocab_size).itemsize + MAX_SMALL_BYTES * numbers


def _check_header(header: Header, num_rows: int, vocab_size: int, limits: BlockLimits) -> None:
    if header.vocab_size != vocab_size:
        raise WireError(
            f"block must be for {vocab_size} vocabulary entries, got {header.vocab_size}."
        )
    if header.num_rows != num_rows or num_rows > limits.max_rows:
        raise WireError(f"block must hold the {num_rows} rows asked for, got {header.num_rows}.")


def _sort_sections(
    sections: Sequence[Section], limits: BlockLimits
) -> tuple[dict[int, Section], list[Section]]:
    """The needed sections by id, and those of masses; what is unknown and optional is skipped."""
    needed: dict[int, Section] = {}
    masses: list[Section] = []
    for each in sections:
        if each.number <= MASS and each.flags & ~(REQUIRED | ZSTD):
            raise WireError(
                f"flags of section {each.number} must be among {REQUIRED | ZSTD}, got {each.flags}."
            )
        if each.number in needed:
            raise WireError(f"section {each.number} must be there once, got it again.")
        if each.number in NEEDED:
            needed[each.number] = each
        elif each.number == MASS:
            masses.append(each)
        elif each.flags & REQUIRED:
            raise WireError(
                f"required sections must be of ids 1 to {MASS}, got id {each.number}. Update this "
                "end: the other one has a later release."
            )
    missing = [name for number, name in NEEDED.items() if number not in needed]
    if missing:
        raise WireError(f"block must have ids, tail and values, got no {missing[0]}.")
    if len(masses) > MAX_MASSES:
        raise WireError(f"rows must have at most {MAX_MASSES} masses, got {len(masses)}.")
    decoded = sum(each.decoded_bytes for each in (*needed.values(), *masses))
    if decoded > limits.max_decoded_bytes:
        raise WireError(f"block must stay under {limits}, got {decoded} bytes.")
    return needed, masses


def _read_ids(
    columns: _Columns, num_rows: int, vocab_size: int, limits: BlockLimits
) -> tuple[np.ndarray, np.ndarray]:
    """Row counts int32 [R] and ids int32 [E]."""
    num_distinct = int(columns.take(1, count_dtype(vocab_size))[0])
    wire_counts_R = columns.take(num_rows, count_dtype(vocab_size))
    # Summed before the cast: a count of 2^32 - 1 must not become -1.
    num_entries = int(wire_counts_R.sum(dtype=np.uint64))
    if num_entries > limits.max_entries:
        raise WireError(f"block must stay under {limits}, got {num_entries} entries.")
    if num_distinct > min(num_entries, vocab_size):
        raise WireError(
            f"a table cannot be longer than its entries, got {num_distinct} ids of {num_entries}."
        )
    table, gaps = columns.take_small(num_distinct), columns.take_small(num_entries)
    columns.check_end()
    counts_R = wire_counts_R.astype(np.int32)
    return counts_R, unpack_ids(PackedIds(table, gaps), counts_R, vocab_size)


def _read_values(
    columns: _Columns, counts_R: np.ndarray, asked: int | None
) -> tuple[ValueFormat, np.ndarray]:
    """The format, and log-probs float32 [E]."""
    number = int(columns.take(1, np.dtype("u1"))[0])
    if number not in BY_NUMBER or asked not in (None, number):
        wanted = sorted(BY_NUMBER) if asked is None else asked
        raise WireError(f"values must be in format {wanted}, got format {number}.")
    value_format = BY_NUMBER[number]
    values_E = columns.take_last(int(counts_R.sum()), value_format.dtype)
    return value_format, value_format.decode(values_E, counts_R)


def _read_masses(
    sections: Sequence[Section], bodies: PlainBodies, num_rows: int
) -> dict[str, np.ndarray]:
    """Float32 [R] by name; check_rows looks at names and values."""
    masses: dict[str, np.ndarray] = {}
    longest = 1 + MAX_MASS_NAME + num_rows * FLOAT.itemsize
    for each in sections:
        columns = _Columns(MASS, bodies.of(each, longest))
        length = int(columns.take(1, np.dtype("u1"))[0])
        name = columns.take(length, np.dtype("u1")).tobytes().decode("ascii", "replace")
        if name in masses:
            raise WireError(f"mass {name!r} must be there once, got it again.")
        masses[name] = columns.take_last(num_rows, FLOAT).copy()
    return masses


class _Columns:
    """Reads columns one after another from the plain body of a section."""

    def __init__(self, number: int, body: bytes | memoryview) -> None:
        self._number = number
        self._body = body
        self._offset = 0

    def take(self, count: int, dtype: np.dtype) -> np.ndarray:
        """The next `count` values, as a view."""
        end = self._offset + count * dtype.itemsize
        if end > len(self._body):
            raise WireError(
                f"section {self._number} must hold {end} bytes or more, got {len(self._body)}."
            )
        column = np.frombuffer(self._body, dtype=dtype, count=count, offset=self._offset)
        self._offset = end
        return column

    def take_last(self, count: int, dtype: np.dtype) -> np.ndarray:
        """The last `count` values."""
        column = self.take(count, dtype)
        self.check_end()
        return column

    def take_small(self, count: int) -> SmallNumbers:
        """Bytes, and an escape for each that calls one."""
        bytes_N = self.take(count, np.dtype("u1"))
        return SmallNumbers(bytes_N, self.take(SmallNumbers.num_called(bytes_N), np.dtype("<u4")))

    def check_end(self) -> None:
        """WireError if anything is left."""
        if self._offset != len(self._body):
            raise WireError(
                f"section {self._number} must hold {self._offset} bytes, got {len(self._body)}."
            )
