"""Store of received targets: one LMDB environment, shared by all ranks of a node.

Content-addressed and written once: a key is a digest of everything that an answer depends on, so
what lies under it is right for good, and the first who writes it wins. LMDB gives readers and
writers in several processes, whole transactions, and a store that outlives a killed writer; it
checks no content, so every value carries a checksum (block.py).

    targets   group id, key of a request -> value of block.py
    groups    group id -> JSON: the teacher's Description; compression and temperature asked for

A group is one teacher, the limits of its input, and one way of softening and cutting its rows.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from protos import teacher_pb2, version
from trainer.common.errors import MachineError, MissingError
from trainer.target_cache.keys import Group

logger = logging.getLogger(__name__)

# Address space, not disk: alike in all processes, so that none has to follow another's growth.
MAP_BYTES = 1 << 40
# Ranks of a node times the threads that read in each.
MAX_READERS = 1024
# Above the depth of the trees that one transaction copies.
TREE_PAGES = 16


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A cache at one moment; to be used where `TargetCache.snapshot` is entered."""

    records: dict[bytes, str]
    """Group id -> its stored record."""
    num_entries: int
    """Targets in the store."""
    entries: Iterator[tuple[bytes, bytes]]
    """Every key and value, group by group; iterate over it once."""


class TargetCache:
    """Values by key, in a folder; all methods may be called from any thread."""

    def __init__(self, folder: Path, *, max_bytes: int, must_exist: bool = False) -> None:
        """Open the folder, or make it unless `must_exist`.

        Raises:
            MissingError: with `must_exist`, if there is no cache.
            MachineError: if the folder cannot be used.
        """
        if must_exist and not (folder / "data.mdb").is_file():
            raise MissingError(
                f"{folder} must be a cache of targets, got no data.mdb there. Fill one with: "
                "python -m trainer.targets build, or a run with teachers.cache"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.is_full = False
        """No more is written: the size is used up, or the disk refused."""
        self._max_bytes = max_bytes
        try:
            # metasync=False: a power cut may lose the last transactions, never break the store.
            self._env = lmdb.open(
                str(folder), map_size=MAP_BYTES, max_dbs=2, max_readers=MAX_READERS, metasync=False
            )
            # Slots of readers that were killed would keep pages from being used again.
            self._env.reader_check()
            self._targets = self._env.open_db(b"targets")
            self._groups = self._env.open_db(b"groups")
            # Takes this process's place among the readers, which is held from then on.
            self._env.begin().abort()
        except lmdb.LockError as error:
            raise MachineError(
                f"{folder} must be opened by processes that see each other, got one with our "
                f"process id ({error}): every container counts its own. Start the containers with "
                "--pid=host (Kubernetes: hostPID), or name another folder with teachers.cache."
            ) from error
        except lmdb.Error as error:
            raise MachineError(
                f"{folder} must be a cache of targets on a local disk, got: {error}. Name another "
                "folder with teachers.cache."
            ) from error

    @property
    def num_bytes(self) -> int:
        """Size of the store on disk."""
        return (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, None where there is none."""
        try:
            with self._env.begin(db=self._targets) as txn:
                return [txn.get(key) for key in keys]
        except lmdb.Error as error:
            self._stop_writing(f"cannot be read ({error}): the teachers are asked")
            return [None] * len(keys)

    def put(
        self, group: Group, values: Mapping[bytes, bytes], broken: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes] | None:
        """Write what is not there yet, in one transaction.

        Args:
            group: what all keys belong to.
            values: new values by key.
            broken: corrupt values that `get` returned; exactly these are replaced.

        Returns:
            What others had written first, by key; None if nothing was written: the store is full
            or the disk refuses, which is logged once.
        """
        page = self._env.stat()["psize"]
        # A value fills pages of its own in the worst case, and a transaction copies some others.
        num_pages = TREE_PAGES + sum(2 + len(value) // page for value in values.values())
        if not self.is_full and self.num_bytes + page * num_pages > self._max_bytes:
            self._stop_writing(
                f"is full at {self.num_bytes:,} bytes: nothing more is kept. Raise "
                "teachers.cache_bytes (of an import: --max-bytes), or empty the folder"
            )
        if self.is_full:
            return None
        try:
            return self._put(group, values, broken)
        except lmdb.Error as error:
            self._stop_writing(f"cannot be written ({error}): nothing more is kept")
            return None

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A consistent view of the whole store, while others write.

        Raises:
            MachineError: if the store cannot be read, also during iteration.
        """
        try:
            with self._env.begin() as txn:
                groups = txn.cursor(self._groups)
                yield Snapshot(
                    records={
                        group_id: text.decode("utf-8", "replace") for group_id, text in groups
                    },
                    num_entries=txn.stat(self._targets)["entries"],
                    entries=iter(txn.cursor(self._targets)),
                )
        except lmdb.Error as error:
            raise MachineError(f"{self.folder} must be a whole cache, got: {error}.") from error

    def known(
        self,
        kind: str,
        asked: teacher_pb2.Compression,
        *,
        vocabulary: str,
        graph: str,
        temperature: float = 1.0,
    ) -> list[Group]:
        """The groups of a kind that fit a student of this data."""
        found = []
        with self.snapshot() as now:
            records = now.records
        for group_id, text in records.items():
            try:
                group = Group.from_json(text, group_id)
            except ValueError as error:
                logger.warning("left alone in the cache of targets %s: %s", self.folder, error)
                continue
            described = group.description
            if described.wire_version != version.WIRE_VERSION:
                logger.warning(
                    "left alone in the cache of targets %s: those of wire version %d, for this "
                    "release has %d. Delete the folder and fill it anew.",
                    self.folder,
                    described.wire_version,
                    version.WIRE_VERSION,
                )
            elif (
                described.kind == kind
                and described.vocabulary_digest == vocabulary
                and described.graph_digest in ("", graph)
                and group.compression == asked
                and group.temperature == np.float32(temperature)
            ):
                found.append(group)
        return found

    def close(self) -> None:
        """Close the folder; no other call may be running."""
        self._env.close()

    def _put(
        self, group: Group, values: Mapping[bytes, bytes], broken: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes]:
        first: dict[bytes, bytes] = {}
        record = group.to_json().encode()
        with self._env.begin(write=True) as txn:
            if txn.get(group.group_id, db=self._groups) != record:
                # New, or broken on the disk: all that matters in it is in its id.
                txn.put(group.group_id, record, db=self._groups)
            for key, value in values.items():
                there = txn.get(key, db=self._targets)
                if there is None or there == broken.get(key):
                    txn.put(key, value, db=self._targets)
                else:
                    first[key] = there
        return first

    def _stop_writing(self, why: str) -> None:
        if not self.is_full:
            self.is_full = True
            logger.warning("the cache of targets in %s %s", self.folder, why)
