"""Sections of a block: read as docs/wire.md says, skipped or refused where they are unknown."""

from __future__ import annotations

import dataclasses
import string
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import codec
from protos.codec import FLOAT16, FLOAT32, UINT8, TargetRows, WireError
from protos.target_rows import ITEM_MASS
from tests.support.blocks import (
    IDS,
    MASS,
    REQUIRED,
    TAIL,
    VALUES,
    ZSTD,
    ZSTD_MAGIC,
    Part,
    decode_slowly,
    join,
    take_apart,
    with_checksum,
)
from tests.support.random_rows import rows_of
from tests.support.same_bits import assert_same_bits

VOCAB = 300
NUM_ROWS = 3
ROWS = rows_of([3, 0, 40], seed=1, vocab_size=VOCAB)
PARTS = take_apart(codec.encode(ROWS, UINT8))
UNKNOWN = Part(77, 0, b"of a later release")
NAME_LETTERS = f"{string.ascii_lowercase}{string.digits}_"


def decoded(parts: list[Part]) -> TargetRows:
    return codec.decode(join(VOCAB, NUM_ROWS, parts), num_rows=NUM_ROWS, vocab_size=VOCAB)


def refused(parts: list[Part], message: str) -> None:
    with pytest.raises(WireError, match=message):
        decoded(parts)


def place_of(number: int) -> int:
    return [part.number for part in PARTS].index(number)


def with_part(number: int, **changes: object) -> list[Part]:
    parts, place = list(PARTS), place_of(number)
    parts[place] = dataclasses.replace(parts[place], **changes)
    return parts


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), max_size=12),
    seed=st.integers(0, 2**32 - 1),
    vocab_size=st.sampled_from([41, 1000, 70_000]),
    values=st.sampled_from([FLOAT32, FLOAT16, UINT8]),
    names=st.lists(st.text(NAME_LETTERS, min_size=1, max_size=64), max_size=8, unique=True),
)
def test_decode_equals_one_field_at_a_time(
    counts: list[int], seed: int, vocab_size: int, values: int, names: list[str]
) -> None:
    rows = rows_of(counts, seed, vocab_size)
    masses = np.random.default_rng(seed).random((len(names), len(counts)), np.float32)
    rows = dataclasses.replace(rows, masses=dict(zip(names, masses, strict=True)))
    block = codec.encode(rows, values)
    slow = decode_slowly(block)
    fast = codec.decode(block, num_rows=len(counts), vocab_size=vocab_size, values=values)
    assert fast.counts_R.tolist() == [len(ids) for ids in slow["ids"]]
    assert fast.ids_E.tolist() == [id_ for ids in slow["ids"] for id_ in ids]
    log_probs = np.array([each for row in slow["log_probs"] for each in row])
    np.testing.assert_allclose(fast.log_probs_E, log_probs, rtol=1e-6, atol=1e-6)
    assert fast.tail_R.tolist() == slow["tail"] == rows.tail_R.tolist()
    got = {name: mass_R.tolist() for name, mass_R in fast.masses.items()}
    assert got == slow["masses"] == {name: each.tolist() for name, each in rows.masses.items()}


def test_block_is_joined_from_its_own_sections() -> None:
    assert join(VOCAB, NUM_ROWS, PARTS) == codec.encode(ROWS, UINT8)
    assert [part.number for part in PARTS] == [IDS, TAIL, VALUES, MASS]
    assert [part.flags & REQUIRED for part in PARTS] == [1, 1, 1, 0]


def test_unknown_optional_sections_are_skipped_wherever_they_are() -> None:
    expected = decoded(PARTS)
    for place in range(len(PARTS) + 1):
        assert_same_bits(decoded([*PARTS[:place], UNKNOWN, *PARTS[place:]]), expected)
    # Flags that are unknown, an empty body, and one that repeats: all of a later release.
    odd = Part(65_535, 0xFE, b"")
    assert_same_bits(decoded([odd, *PARTS, UNKNOWN, UNKNOWN]), expected)


def test_unknown_required_section_is_refused_by_its_id() -> None:
    required = dataclasses.replace(UNKNOWN, flags=REQUIRED)
    refused([*PARTS, required], "got id 77. Update this end")


def test_sections_in_another_order_and_plain_ones_decode_to_the_same() -> None:
    expected = decoded(PARTS)
    assert_same_bits(decoded(PARTS[::-1]), expected)
    plain = [Part(part.number, part.flags & REQUIRED, part.plain()) for part in PARTS]
    assert_same_bits(decoded(plain), expected)
    framed = [
        Part(part.number, part.flags | ZSTD, zstandard.compress(part.plain())[4:]) for part in PARTS
    ]
    assert_same_bits(decoded(framed), expected)


@pytest.mark.parametrize("number", [IDS, TAIL, VALUES])
def test_needed_section_that_is_missing_or_repeated_is_refused(number: int) -> None:
    place = place_of(number)
    refused([*PARTS[:place], *PARTS[place + 1 :]], "must have ids, tail and values, got no")
    refused([*PARTS, PARTS[place]], f"section {number} must be there once")


@pytest.mark.parametrize("number", [IDS, TAIL, VALUES, MASS])
def test_section_that_is_longer_or_shorter_than_its_columns_is_refused(number: int) -> None:
    plain = PARTS[place_of(number)].plain()
    for body in (plain + b"\0", plain[:-1], b""):
        refused(with_part(number, flags=REQUIRED, body=body), f"section {number} must hold")


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        # The length of the last section, whose body has 22 bytes.
        (-26, 1, "section 4 must end in the block, got 23 bytes of the last 22"),
        (-26, -1, "must end with its last section, got 1 bytes more"),
        # The number of sections.
        (5, 1, "must have 5 sections, got 4"),
        (5, -1, "must end with its last section, got 29 bytes more"),
    ],
)
def test_sections_that_do_not_fill_the_block_are_refused(
    place: int, change: int, message: str
) -> None:
    block = bytearray(join(VOCAB, NUM_ROWS, PARTS))
    block[place] += change
    with pytest.raises(WireError, match=message):
        codec.decode(with_checksum(bytes(block)), num_rows=NUM_ROWS, vocab_size=VOCAB)


def test_mass_by_a_name_that_repeats_or_is_none_is_refused() -> None:
    mass = PARTS[place_of(MASS)]
    refused([*PARTS, mass], "mass 'item_mass' must be there once")
    numbers = np.zeros(NUM_ROWS, "<f4").tobytes()
    for name in (b"Item", b"", b"caf\xe9", b"new\n", b"x" * 65):
        body = bytes([len(name)]) + name + numbers
        refused([*PARTS[:3], Part(MASS, 0, body)], "named by 1 to 64|must hold at most")
    nine = [Part(MASS, 0, b"\x01" + b"%d" % n + numbers) for n in range(9)]
    refused([*PARTS[:3], *nine], "at most 8 masses, got 9")


def test_rows_without_the_item_mass_say_so_where_it_is_needed() -> None:
    rows = decoded(PARTS[:3])
    assert dict(rows.masses) == {}
    with pytest.raises(WireError, match="must have the mass 'item_mass', got none"):
        _ = rows.item_mass_R
    other = decoded([*PARTS[:3], Part(MASS, 0, b"\x04cast" + bytes(4 * NUM_ROWS))])
    with pytest.raises(WireError, match="must have the mass 'item_mass', got cast"):
        _ = other.item_mass_R


def test_frame_that_claims_more_than_the_section_may_hold_is_refused_unread() -> None:
    bomb = zstandard.compress(bytes(1 << 24))[4:]
    for number, longest in ((TAIL, 12), (VALUES, 173), (MASS, 77)):
        message = f"section {number} must hold at most {longest} bytes, got 16777216"
        refused(with_part(number, flags=REQUIRED | ZSTD, body=bomb), message)
    limits = codec.BlockLimits(max_entries=43)
    block = join(VOCAB, NUM_ROWS, with_part(IDS, flags=REQUIRED | ZSTD, body=bomb))
    with pytest.raises(WireError, match="section 1 must hold at most 438 bytes"):
        codec.decode(block, num_rows=NUM_ROWS, vocab_size=VOCAB, limits=limits)


def test_frame_that_is_torn_or_silent_about_its_size_is_refused() -> None:
    part = PARTS[place_of(IDS)]
    plain = part.plain()
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(plain)[4:]
    refused(with_part(IDS, flags=3, body=silent), "must say its size")
    frame = zstandard.compress(plain)[4:]
    refused(with_part(IDS, flags=3, body=frame[:-1]), "section 1 must be whole")
    refused(with_part(IDS, flags=3, body=frame + b"\0"), "section 1 must be whole")
    refused(with_part(IDS, flags=3, body=ZSTD_MAGIC + frame), "section 1 must")
    refused(with_part(IDS, flags=3, body=b""), "section 1 must be a zstd frame")


def test_table_longer_than_its_entries_is_refused() -> None:
    body = struct.pack("<4H", 3, 1, 1, 0) + bytes(3 + 2)
    refused(with_part(IDS, flags=REQUIRED, body=body), "got 3 ids of 2")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"CKB2\2\0", "got b'CKB2' of an earlier version. Run the same release on both ends"),
        (b"CKB1\1\0", "got b'CKB1' of an earlier version"),
        (b"CKB3\2\0", "must be b'CKB3' version 1, got b'CKB3' version 2"),
        (b"PK\3\4\0\0", "must be b'CKB3' version 1, got"),
    ],
)
def test_block_of_another_version_is_refused_by_name(start: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        codec.decode(start + bytes(40), num_rows=NUM_ROWS, vocab_size=VOCAB)


def test_rows_keep_their_masses_when_taken_split_and_joined() -> None:
    more = dataclasses.replace(
        ROWS, masses={**ROWS.masses, "cast": np.array([0, 0.5, 1], np.float32)}
    )
    assert codec.concat_rows(more.split([1, 2])).masses["cast"].tolist() == [0, 0.5, 1]
    assert more.take(np.array([2, 0])).masses["cast"].tolist() == [1, 0]
    with pytest.raises(WireError, match=r"must have the masses \['item_mass'\], got"):
        codec.concat_rows([ROWS, more])
    assert more.num_bytes - ROWS.num_bytes == 4 * NUM_ROWS
    assert ROWS.masses.keys() == {ITEM_MASS}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_known_section_with_an_unknown_flag_is_refused(number: int) -> None:
    parts = [
        dataclasses.replace(part, flags=part.flags | 4) if part.number == number else part
        for part in PARTS
    ]
    with pytest.raises(WireError, match=f"flags of section {number} must be among 3, got"):
        codec.decode(join(VOCAB, NUM_ROWS, parts), num_rows=NUM_ROWS, vocab_size=VOCAB)
