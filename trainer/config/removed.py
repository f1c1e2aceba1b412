"""Settings that were removed, and what replaces them: an error names the replacement."""

from __future__ import annotations

REMOVED = {
    "distinct_words": "words of a context are pooled with their repeats, as in KGSF",
    "entity_relu": "entity vectors have no activation, as in KGSF's code",
    "word_relu": "word vectors have no activation, as in KGSF's code",
    "word_side": "a teacher uses words if the prepared data has word relations",
    "teachers.max_bytes": (
        "teachers.in_flight bounds what is held; lower it if whole rows (top_k=0) need too much"
    ),
    "train.keep_freed_memory": (
        "set MALLOC_MMAP_THRESHOLD_=1048576 in the environment to give freed memory back at once"
    ),
    "student.new_rows": "films' own rows start at random, or from item_vectors",
}
"""Dotted key -> its replacement, as the end of a sentence."""
