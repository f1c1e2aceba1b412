"""Decode, check and count every value of a cache, by teacher and cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from protos import teacher_pb2, version
from protos.codec import TargetRows, WireError
from trainer.target_cache.block import unpack
from trainer.target_cache.keys import GROUP_BYTES, KEY_BYTES, Group
from trainer.target_cache.store import TargetCache


@dataclass(kw_only=True)
class GroupSummary:
    """The targets of one teacher with one cut at one temperature."""

    kind: str
    weights_digest: str
    dtype: str
    temperature: float
    """The teacher's own."""
    cut: str
    """And the temperature asked for, if it is not 1."""
    num_entries: int = 0
    """Targets, one per example."""
    num_rows: int = 0
    """Response positions of a dialogue teacher, examples of a recommendation teacher."""
    num_bytes: int = 0
    kept_mass: float = 0.0
    """Sum over rows."""

    @property
    def bytes_per_row(self) -> float | None:
        """Checksum and framing counted, LMDB's pages not."""
        return self.num_bytes / self.num_rows if self.num_rows else None

    @property
    def mean_kept_mass(self) -> float | None:
        """Mean over rows of 1 - tail."""
        return self.kept_mass / self.num_rows if self.num_rows else None

    def add(self, rows: TargetRows, num_bytes: int) -> None:
        """Count one target."""
        self.num_entries += 1
        self.num_rows += rows.num_rows
        self.num_bytes += num_bytes
        self.kept_mass += float((1.0 - rows.tail_R.astype(float)).sum())

    def to_dict(self) -> dict[str, Any]:
        """The object that `stats --json` prints."""
        return {
            "kind": self.kind,
            "weights_digest": self.weights_digest,
            "dtype": self.dtype,
            "temperature": self.temperature,
            "cut": self.cut,
            "targets": self.num_entries,
            "rows": self.num_rows,
            "bytes": self.num_bytes,
            "bytes_per_row": self.bytes_per_row,
            "mean_kept_mass": self.mean_kept_mass,
        }


@dataclass(frozen=True, kw_only=True)
class CacheStats:
    """Contents and problems of a cache."""

    groups: list[GroupSummary]
    broken: list[str]
    """One line for every corrupt value and every corrupt record of a group."""
    num_entries: int
    disk_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The object that `stats --json` prints."""
        return {
            "groups": [group.to_dict() for group in self.groups],
            "broken": len(self.broken),
            "targets": self.num_entries,
            "disk_bytes": self.disk_bytes,
        }


def inspect_cache(cache: TargetCache, progress: Progress) -> CacheStats:
    """Decode everything in a cache.

    Raises:
        OSError: if the store itself cannot be read.
    """
    broken: list[str] = []
    groups: dict[bytes, Group] = {}
    with cache.snapshot() as now:
        for group_id, text in now.records.items():
            try:
                groups[group_id] = Group.from_json(text, group_id)
            except ValueError as error:
                broken.append(f"{group_id.hex()}: {error}")
        summaries = {group_id: _summary(group) for group_id, group in groups.items()}
        entries = progress.track(now.entries, total=now.num_entries, description="targets")
        for key, value in entries:
            try:
                rows = read_entry(groups, key, value)
            except WireError as error:
                broken.append(f"{key.hex()}: {error}")
            else:
                summaries[key[:GROUP_BYTES]].add(rows, len(value))
        return CacheStats(
            groups=sorted(summaries.values(), key=lambda each: (each.kind, each.weights_digest)),
            broken=broken,
            num_entries=now.num_entries,
            disk_bytes=cache.num_bytes,
        )


def read_entry(groups: Mapping[bytes, Group], key: bytes, value: bytes) -> TargetRows:
    """The rows of one entry of a cache with these groups.

    Raises:
        WireError: if the key is malformed or of no group, or the value is corrupt.
    """
    group = groups.get(key[:GROUP_BYTES])
    if len(key) != KEY_BYTES or group is None:
        raise WireError(f"a key must have {KEY_BYTES} bytes and a group, got {len(key)} bytes.")
    stored = group.description.wire_version
    if stored != version.WIRE_VERSION:
        raise WireError(
            f"targets must be of wire version {version.WIRE_VERSION}, got {stored} of another "
            "release. Delete the cache's folder and fill it anew."
        )
    return unpack(key, value, vocab_size=group.description.vocab_size)


def _summary(group: Group) -> GroupSummary:
    asked = group.compression
    values = teacher_pb2.ValueFormat.Name(asked.values).lower()
    kept = f"top_k={asked.top_k} top_p={asked.top_p:g}"
    tempered = "" if group.temperature == 1.0 else f" at temperature {group.temperature:g}"
    drawn = f"samples={asked.samples} seed={asked.seed}"
    return GroupSummary(
        kind=group.description.kind,
        weights_digest=group.description.weights_digest,
        dtype=group.description.dtype,
        temperature=group.description.temperature,
        cut=f"{drawn if asked.samples else kept} {values}{tempered}",
    )
