"""Target caches for tests."""

from __future__ import annotations

from typing import Any

import lmdb

from protos import teacher_pb2
from trainer.target_cache.keys import Group
from trainer.target_cache.store import TargetCache

MAX_BYTES = 1 << 26


def described(**changes: Any) -> teacher_pb2.Description:
    settings = {
        "kind": "dialogue",
        "vocab_size": 12,
        "vocabulary_digest": "vocabulary-a",
        "graph_digest": "graph-a",
        "weights_digest": "weights-a",
        "temperature": 1.5,
        "dtype": "float32",
        "max_tokens": 16,
        "max_entities": 4,
        "replica_id": "one",
    }
    return teacher_pb2.Description(**{**settings, **changes})


def compression(**changes: Any) -> teacher_pb2.Compression:
    return teacher_pb2.Compression(**{"top_k": 5, "top_p": 0.95, "values": 3, **changes})


GROUP = Group.of(described(), compression())


def corrupt(cache: TargetCache, key: bytes) -> None:
    """One bit turned over on the disk."""
    (value,) = cache.get([key])
    assert value is not None
    broken = bytearray(value)
    broken[len(broken) // 2] ^= 1
    database: lmdb._Database = cache._targets
    with cache._env.begin(write=True) as transaction:
        transaction.put(key, bytes(broken), db=database)
