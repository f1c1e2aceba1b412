"""The frame of a reply block: a header and sections, which a decoder may skip; docs/wire.md.

    header    "CKB3", version uint8, sections uint8, V uint32, R uint32, CRC-32 uint32
    section   id uint16, flags uint8, bytes uint32; then so many bytes

A body is plain, or a zstd frame without its magic number where that is shorter. What a body may
hold is said by its reader (codec.py), which names the most bytes before any are allocated.

R rows, V vocabulary.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from protos.target_rows import WireError

MAGIC = b"CKB3"
BLOCK_VERSION = 1
EARLIER_MAGICS = (b"CKB1", b"CKB2")
MAX_SECTIONS = 255
# Flags of a section.
REQUIRED, ZSTD = 1, 2
ZSTD_LEVEL = 3
# All frames would begin with the same four bytes.
FRAME_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS
# zstd gains nothing below: a header of five bytes, and one of three per part.
MIN_COMPRESSED_BYTES = 32


@dataclass(frozen=True)
class Header:
    """The first bytes of a block, without its checksum."""

    num_sections: int
    vocab_size: int
    num_rows: int

    FORMAT = struct.Struct("<4sBBII")
    CHECKSUM = struct.Struct("<I")
    NUM_BYTES = FORMAT.size + CHECKSUM.size

    @classmethod
    def of(cls, block: bytes) -> Header:
        """The header of a block.

        Raises:
            WireError: if the block is too short, or not of this version; nothing else is checked.
        """
        if len(block) < cls.NUM_BYTES:
            raise WireError(f"block must be at least {cls.NUM_BYTES} bytes, got {len(block)}.")
        magic, version, *fields = cls.FORMAT.unpack_from(block)
        if magic in EARLIER_MAGICS:
            raise WireError(
                f"block must be {MAGIC!r}, got {magic!r} of an earlier version. Run the same "
                "release on both ends, and delete targets that an earlier one has cached."
            )
        if (magic, version) != (MAGIC, BLOCK_VERSION):
            raise WireError(
                f"block must be {MAGIC!r} version {BLOCK_VERSION}, got {magic!r} version "
                f"{version}. Run the same release on both ends."
            )
        return cls(*fields)

    def pack(self, body: bytes) -> bytes:
        """The header of a block that goes on with `body`."""
        fields = (self.num_sections, self.vocab_size, self.num_rows)
        start = self.FORMAT.pack(MAGIC, BLOCK_VERSION, *fields)
        return start + self.CHECKSUM.pack(zlib.crc32(body, zlib.crc32(start)))


@dataclass(frozen=True)
class Section:
    """A part of a block that says its own length."""

    number: int
    flags: int
    body: bytes | memoryview

    HEAD = struct.Struct("<HBI")

    @property
    def decoded_bytes(self) -> int:
        """Size of the plain body, as far as the section itself says.

        Raises:
            WireError: if the body is no frame that says its size.
        """
        if not self.flags & ZSTD:
            return len(self.body)
        try:
            claimed = zstandard.get_frame_parameters(self.body, format=FRAME_FORMAT).content_size
        except zstandard.ZstdError as error:
            raise WireError(f"section {self.number} must be a zstd frame, got: {error}.") from error
        if claimed == zstandard.CONTENTSIZE_UNKNOWN:
            raise WireError(f"the frame of section {self.number} must say its size, got none.")
        return claimed


class SectionPacker:
    """Makes the sections of one block."""

    def __init__(self) -> None:
        self._compressor = _compressor(min_match=0)

    def pack(self, number: int, flags: int, body: bytes) -> Section:
        """A section, compressed where that makes it shorter; `flags` are 0 or REQUIRED."""
        return _shorter(number, flags, body, self._compressor)

    def pack_values(self, number: int, flags: int, body: bytes) -> Section:
        """The same of values: they repeat by chance, and short matches cost what they save."""
        return _shorter(number, flags, body, _compressor(min_match=7))


def _compressor(min_match: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL, min_match=min_match, format=FRAME_FORMAT
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _shorter(number: int, flags: int, body: bytes, compressor: zstandard.ZstdCompressor) -> Section:
    if len(body) >= MIN_COMPRESSED_BYTES:
        frame = compressor.compress(body)
        if len(frame) < len(body):
            return Section(number, flags | ZSTD, frame)
    return Section(number, flags, body)


def write_block(vocab_size: int, num_rows: int, sections: Sequence[Section]) -> bytes:
    """A block of these sections, at most 255."""
    parts: list[bytes | memoryview] = []
    for each in sections:
        parts += (Section.HEAD.pack(each.number, each.flags, len(each.body)), each.body)
    body = b"".join(parts)
    return Header(len(sections), vocab_size, num_rows).pack(body) + body


def read_sections(block: bytes) -> list[Section]:
    """All sections of a block, as views of it.

    Raises:
        WireError: if a byte was changed, or the sections do not fill the block exactly.
    """
    header, view = Header.of(block), memoryview(block)
    _check_checksum(view)
    sections, at = [], Header.NUM_BYTES
    for place in range(header.num_sections):
        if len(block) - at < Section.HEAD.size:
            raise WireError(f"block must have {header.num_sections} sections, got {place}.")
        number, flags, num_bytes = Section.HEAD.unpack_from(block, at)
        at += Section.HEAD.size
        if num_bytes > len(block) - at:
            raise WireError(
                f"section {number} must end in the block, got {num_bytes} bytes of the last "
                f"{len(block) - at}."
            )
        sections.append(Section(number, flags, view[at : at + num_bytes]))
        at += num_bytes
    if at != len(block):
        raise WireError(f"block must end with its last section, got {len(block) - at} bytes more.")
    return sections


class PlainBodies:
    """Plain bodies of a block's sections; one zstd decompressor for all of them."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(format=FRAME_FORMAT)

    def of(self, section: Section, max_bytes: int) -> bytes | memoryview:
        """The plain body of a section.

        Raises:
            WireError: if it has more than `max_bytes`, of which none is allocated then, or is torn.
        """
        num_bytes = section.decoded_bytes
        if num_bytes > max_bytes:
            raise WireError(
                f"section {section.number} must hold at most {max_bytes} bytes, got {num_bytes}."
            )
        if not section.flags & ZSTD:
            return section.body
        try:
            # Allocates what the frame says, which was checked.
            body = self._decompressor.decompress(section.body, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise WireError(f"section {section.number} must be whole, got: {error}.") from error
        if len(body) != num_bytes:
            raise WireError(
                f"section {section.number} must hold {num_bytes} bytes, got {len(body)}."
            )
        return body


def _check_checksum(view: memoryview) -> None:
    (told,) = Header.CHECKSUM.unpack_from(view, Header.FORMAT.size)
    start, body = view[: Header.FORMAT.size], view[Header.NUM_BYTES :]
    found = zlib.crc32(body, zlib.crc32(start))
    if found != told:
        raise WireError(f"block must have the checksum {told:#010x}, got {found:#010x}.")
