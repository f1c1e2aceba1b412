"""Digests of vocabulary, graph and weights, which both ends of the handshake compare.

Every digest is the hex SHA-256 of a canonical byte form. It depends on the content alone, not on
file names, key order or the platform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

CHUNK_BYTES = 1 << 20


def digest_strings(*columns: Iterable[str]) -> str:
    """Digest of columns of strings; the order of columns and of their rows counts."""
    sha = hashlib.sha256()
    for column in columns:
        for text in column:
            encoded = text.encode("utf-8")
            # Length-prefixed: ("ab", "c") and ("a", "bc") must differ.
            sha.update(len(encoded).to_bytes(8, "little"))
            sha.update(encoded)
        sha.update(b"\xff" * 8)
    return sha.hexdigest()


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Digest of named arrays: names, dtypes, shapes and values."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def digest_file(path: Path) -> str:
    """Digest of a file's bytes, read in chunks of one MiB."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()
