"""A cache as one portable file, and back.

    magic    "CKT3"
    groups   uint32 count, then each: uint32 length, the record in UTF-8
    targets  uint64 count, then each: key, uint32 length, value; in the order of the keys
    SHA-256  of all before

The same targets make the same file. A reader checks the digest of the whole before it takes
anything, every length against the file and a limit, and every value as a run would.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rich.progress import Progress

from protos.codec import WireError
from protos.fingerprint import CHUNK_BYTES
from trainer.common.errors import MachineError
from trainer.target_cache.inspect import read_entry
from trainer.target_cache.keys import GROUP_BYTES, KEY_BYTES, Group
from trainer.target_cache.store import TargetCache

MAGIC = b"CKT3"
EARLIER_MAGICS = (b"CKT1", b"CKT2")
LENGTH, COUNT = struct.Struct("<I"), struct.Struct("<Q")
DIGEST_BYTES = hashlib.sha256().digest_size
MAX_RECORD_BYTES = 1 << 16
MAX_VALUE_BYTES = 1 << 28
MAX_GROUPS = 1 << 16
TARGETS_PER_WRITE = 1024
BYTES_PER_WRITE = 64 << 20


def export_file(cache: TargetCache, path: Path, progress: Progress) -> int:
    """Write all targets of a cache to `path`, whole or not at all; returns how many.

    Raises:
        WireError: if a target is corrupt; it is not exported.
        ValueError: if the record of a group is broken.
        MachineError: if the store cannot be read, or the file not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            count = _write(cache, file, progress)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write(cache: TargetCache, file: BinaryIO, progress: Progress) -> int:
    sha = hashlib.sha256()

    def put(*parts: bytes) -> None:
        for part in parts:
            sha.update(part)
            file.write(part)

    with cache.snapshot() as now:
        groups = {
            group_id: Group.from_json(text, group_id) for group_id, text in now.records.items()
        }
        put(MAGIC, LENGTH.pack(len(groups)))
        for _, text in sorted(now.records.items()):
            put(LENGTH.pack(len(text.encode())), text.encode())
        put(COUNT.pack(now.num_entries))
        entries = progress.track(now.entries, total=now.num_entries, description="targets")
        for key, value in entries:
            read_entry(groups, key, value)
            put(key, LENGTH.pack(len(value)), value)
        file.write(sha.digest())
        return now.num_entries


def import_file(path: Path, cache: TargetCache, progress: Progress) -> int:
    """Add the targets of an exported file to a cache; returns how many the file has.

    Raises:
        WireError: if the file is corrupt; whole targets read before may be in the cache by then.
        MachineError: if the cache cannot store all of them; it keeps the stored ones.
    """
    size = path.stat().st_size - DIGEST_BYTES
    with path.open("rb") as file:
        _check_digest(file, size, path)
        file.seek(0)
        reader = _Reader(file, size, path)
        _check_magic(reader.take(len(MAGIC)), path)
        groups = dict(_read_groups(reader))
        (count,) = COUNT.unpack(reader.take(COUNT.size))
        batch: dict[bytes, bytes] = {}
        batch_bytes = 0
        for _ in progress.track(range(count), description="targets"):
            key = reader.take(KEY_BYTES)
            value = reader.take_sized(MAX_VALUE_BYTES)
            read_entry(groups, key, value)
            batch_bytes += len(value)
            is_full = len(batch) >= TARGETS_PER_WRITE or batch_bytes > BYTES_PER_WRITE
            if batch and (is_full or not _same_group(batch, key)):
                _put(cache, groups, batch)
                batch, batch_bytes = {}, len(value)
            batch[key] = value
        if batch:
            _put(cache, groups, batch)
        reader.check_end()
    return count


def _check_digest(file: BinaryIO, size: int, path: Path) -> None:
    sha = hashlib.sha256()
    left = size
    while left > 0 and (chunk := file.read(min(left, CHUNK_BYTES))):
        sha.update(chunk)
        left -= len(chunk)
    if size < 0 or file.read() != sha.digest():
        raise WireError(f"{path} must end with its SHA-256, got another one. Copy it again.")


def _check_magic(magic: bytes, path: Path) -> None:
    if magic in EARLIER_MAGICS:
        raise WireError(
            f"{path} must begin with {MAGIC!r}, got {magic!r} of an earlier version, whose targets "
            "no teacher of this one gives. Fill a cache anew and export that."
        )
    if magic != MAGIC:
        raise WireError(
            f"{path} must begin with {MAGIC!r}, got {magic!r}. Name a file that "
            "`python -m trainer.targets export` has written."
        )


def _read_groups(reader: _Reader) -> Iterator[tuple[bytes, Group]]:
    (count,) = LENGTH.unpack(reader.take(LENGTH.size))
    if count > MAX_GROUPS:
        raise WireError(f"a file must have at most {MAX_GROUPS} groups, got {count}.")
    for _ in range(count):
        text = reader.take_sized(MAX_RECORD_BYTES).decode("utf-8", "replace")
        try:
            group = Group.from_json(text)
        except ValueError as error:
            raise WireError(str(error)) from error
        yield group.group_id, group


def _same_group(batch: dict[bytes, bytes], key: bytes) -> bool:
    return next(iter(batch))[:GROUP_BYTES] == key[:GROUP_BYTES]


def _put(cache: TargetCache, groups: dict[bytes, Group], batch: dict[bytes, bytes]) -> None:
    group = groups[next(iter(batch))[:GROUP_BYTES]]
    if cache.put(group, batch, {}) is None:
        raise MachineError(
            f"{cache.folder} must take all targets, got no room for more at {cache.num_bytes} "
            "bytes. Raise --max-bytes, or make room on the disk, and import again."
        )


class _Reader:
    """Reads parts of a file of known size."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file = file
        self._left = size
        self._path = path

    def take(self, num_bytes: int) -> bytes:
        """The next bytes of the given number; WireError if there are fewer."""
        if num_bytes > self._left:
            raise WireError(f"{self._path} must go on for {num_bytes} bytes, got {self._left}.")
        self._left -= num_bytes
        return self._file.read(num_bytes)

    def take_sized(self, max_bytes: int) -> bytes:
        """The next length-prefixed part; WireError above max_bytes."""
        (num_bytes,) = LENGTH.unpack(self.take(LENGTH.size))
        if num_bytes > max_bytes:
            raise WireError(
                f"{self._path}: a part must be at most {max_bytes} bytes, got {num_bytes}."
            )
        return self.take(num_bytes)

    def check_end(self) -> None:
        """WireError if anything is left."""
        if self._left:
            raise WireError(f"{self._path} must end after its targets, got {self._left} bytes.")
