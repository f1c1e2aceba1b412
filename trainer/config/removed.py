"""Settings that were removed, and what replaces them: an error names the replacement."""

from __future__ import annotations

REMOVED = {
    "train.keep_freed_memory": (
        "set MALLOC_MMAP_THRESHOLD_=1048576 in the environment to give freed memory back at once"
    ),
    "student.new_rows": "films' own rows start at random, or from item_vectors",
}
"""Dotted key -> its replacement, as the end of a sentence."""
