"""The store of targets that were received: one LMDB environment, shared by all ranks of a node.

Content-addressed and written once: a key is a digest of everything that an answer depends on, so
what lies under it is right for good, and the first who writes it wins. LMDB gives readers and
writers in several processes, whole transactions, and a store that outlives a killed writer; it
checks no content, so every value carries a checksum (target_block.py).

    targets   group id, digest of the question -> value of target_block.py
    groups    group id -> JSON: the teacher's Description and the compression asked for

A group is one teacher and one way of cutting its rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
from google.protobuf import json_format

from protos import codec, teacher_pb2
from protos.fingerprint import digest_strings
from trainer.data.model_input import ExampleInput, InputLimits

logger = logging.getLogger(__name__)

GROUP_BYTES = 8
KEY_BYTES = GROUP_BYTES + hashlib.sha256().digest_size
# Address space, not disk: alike in all processes, so that none has to follow another's growth.
MAP_BYTES = 1 << 40
# Ranks of a node times the threads that read in each.
MAX_READERS = 1024
# Above the depth of the trees that one transaction copies.
TREE_PAGES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """One teacher and one way of cutting its rows: what all keys of a run and kind share."""

    description: teacher_pb2.Description
    compression: teacher_pb2.Compression

    @property
    def digest(self) -> str:
        """Of everything but the input that an answer depends on, the wire's version included."""
        described = self.description
        return digest_strings(
            [
                str(described.wire_version),
                described.kind,
                described.vocabulary_digest,
                str(described.vocab_size),
                described.graph_digest,
                described.weights_digest,
                # The number, not its text: the field is a float32.
                np.float32(described.temperature).tobytes().hex(),
                self.compression.SerializeToString(deterministic=True).hex(),
            ]
        )

    @property
    def group_id(self) -> bytes:
        """First bytes of all keys of the group, so that its entries lie together."""
        return bytes.fromhex(self.digest)[:GROUP_BYTES]

    @property
    def limits(self) -> InputLimits:
        """What the teacher takes of an example."""
        return input_limits(self.description)

    @classmethod
    def of(cls, described: teacher_pb2.Description, compression: teacher_pb2.Compression) -> Group:
        """The group of what a replica says of itself, which replica of a kind it may be."""
        description = teacher_pb2.Description()
        description.CopyFrom(described)
        description.replica_id = ""
        # A stream opens only where both ends have the same.
        description.wire_version = codec.FORMAT_VERSION
        return cls(description=description, compression=compression)

    def to_json(self) -> str:
        """The record of the group."""
        messages = {"description": self.description, "compression": self.compression}
        record = {name: json_format.MessageToDict(message) for name, message in messages.items()}
        return json.dumps(record, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, group_id: bytes | None = None) -> Group:
        """The group of a record.

        Raises:
            ValueError: if it is none, or not that of `group_id`, if given.
        """
        try:
            record = json.loads(text)
            description, compression = record["description"], record["compression"]
            group = cls(
                description=json_format.ParseDict(description, teacher_pb2.Description()),
                compression=json_format.ParseDict(compression, teacher_pb2.Compression()),
            )
        except (ValueError, json_format.ParseError, KeyError, TypeError) as error:
            raise ValueError(
                f"the record of a group must be a Description and a Compression, got: {error}."
            ) from error
        if group_id not in (None, group.group_id):
            raise ValueError(
                f"group {group_id.hex()} must have its own record, got {group.group_id.hex()}'s."
            )
        return group


def input_limits(description: teacher_pb2.Description) -> InputLimits:
    """What a teacher takes of one example."""
    return InputLimits(
        max_tokens=description.max_tokens,
        max_entities=description.max_entities,
        max_words=description.max_words,
    )


def sent_columns(each: ExampleInput, limits: InputLimits) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of an example that are sent to a teacher: name, and int32 ids as on the wire."""
    for name, taken, ids in (
        ("token", limits.max_tokens, each.tokens),
        ("entity", limits.max_entities, each.entities),
        ("word", limits.max_words, each.words),
    ):
        if taken:
            yield name, ids.astype("<i4", copy=False)


class Question:
    """What is asked of one kind of teacher about many examples, and the keys of the answers."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.kind = group.description.kind
        self.limits = group.limits
        self._group_id = group.group_id
        # Hashed once: keys are made for every example of every step.
        self._prefix = hashlib.sha256(group.digest.encode())

    def key(self, each: ExampleInput) -> bytes:
        """Key of the answer about one example, [KEY_BYTES]."""
        sha = self._prefix.copy()
        sha.update(each.num_targets.to_bytes(8, "little"))
        for name, ids in sent_columns(each, self.limits):
            # Length-prefixed: no two questions may run into the same bytes.
            sha.update(name[0].encode() + len(ids).to_bytes(8, "little"))
            sha.update(ids.tobytes())
        return self._group_id + sha.digest()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A cache at one moment; to be used where `TargetCache.snapshot` is entered."""

    records: dict[bytes, str]
    """Group id -> its record, as it lies there."""
    num_entries: int
    """Targets in the store."""
    entries: Iterator[tuple[bytes, bytes]]
    """Every key and value, groups one after another, to be gone through once."""


class TargetCache:
    """Values by key, in a folder; all methods may be called from any thread."""

    def __init__(self, folder: Path, *, max_bytes: int, must_exist: bool = False) -> None:
        """Open the folder, or make it unless `must_exist`.

        Raises:
            FileNotFoundError: with `must_exist`, if there is no cache.
            OSError: if the folder cannot be used.
        """
        if must_exist and not (folder / "data.mdb").is_file():
            raise FileNotFoundError(f"{folder} must be a cache of targets, got no data.mdb there.")
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
        except lmdb.Error as error:
            raise OSError(
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
            broken: values that `get` gave and that were no good; the same ones are replaced.

        Returns:
            What others had written first, by key; None if nothing was written: the store is full
            or the disk refuses, which is told once.
        """
        page = self._env.stat()["psize"]
        # A value fills pages of its own in the worst case, and a transaction copies some others.
        num_pages = TREE_PAGES + sum(2 + len(value) // page for value in values.values())
        if not self.is_full and self.num_bytes + page * num_pages > self._max_bytes:
            self._stop_writing(
                f"is full at {self.num_bytes:,} bytes: nothing more is kept. Raise "
                "teachers.cache_bytes, or empty the folder"
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
        """All that is there at one moment, whoever writes meanwhile.

        Raises:
            OSError: also while it is gone through, if the store cannot be read.
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
            raise OSError(f"{self.folder} must be a whole cache, got: {error}.") from error

    def known(
        self, kind: str, asked: teacher_pb2.Compression, *, vocabulary: str, graph: str
    ) -> list[Group]:
        """The groups of a kind that answer what a student of this data asks."""
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
            if (
                (described.kind, described.wire_version) == (kind, codec.FORMAT_VERSION)
                and described.vocabulary_digest == vocabulary
                and described.graph_digest in ("", graph)
                and group.compression == asked
            ):
                found.append(group)
        return found

    def close(self) -> None:
        """Let go of the folder; nothing may be running."""
        self._env.close()

    def _put(
        self, group: Group, values: Mapping[bytes, bytes], broken: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes]:
        first: dict[bytes, bytes] = {}
        record = group.to_json().encode()
        with self._env.begin(write=True) as txn:
            if txn.get(group.group_id, db=self._groups) != record:
                # A teacher may be served with other limits of input than before: the newest count.
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
