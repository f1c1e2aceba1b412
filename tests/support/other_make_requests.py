"""What the teacher of another make refuses of a request; no more than numpy and the contract."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from protos import limits
from protos.teacher_pb2 import Description, ScoreRequest


def wanted_ranges(request: ScoreRequest, about: Description) -> Iterator[tuple[list[int], int]]:
    """The tokens up to the end of each range, and its number of rows; ValueError if malformed."""
    need(request.ByteSize() <= limits.MAX_REQUEST_BYTES, "a request must have at most 4 MB.")
    need(request.temperature in (0.0, 1.0), "temperature must be 1: this teacher takes no other.")
    columns = ("token_ids", "token_lengths", "range_counts", "range_starts", "range_lengths")
    tokens, lengths, counts, starts, sizes = (
        np.frombuffer(getattr(request, name), "<i4").tolist() for name in columns
    )
    strange = request.entity_ids + request.entity_lengths + request.word_ids + request.word_lengths
    need(not strange, "entities and words must be empty: this teacher takes tokens alone.")
    need(1 <= len(lengths) <= limits.MAX_EXAMPLES, "a request must have 1 to 1,024 sequences.")
    need(len(counts) == len(lengths), "range_counts must have an entry per sequence.")
    need(min(counts) >= 1, "range_counts must be at least 1.")
    need(sum(counts) == len(starts) == len(sizes), "each range must have a start and a length.")
    need(sum(lengths) == len(tokens) <= limits.MAX_INPUT_IDS, "lengths must sum to the ids.")
    need(min(lengths) >= 1 and max(lengths) <= about.max_tokens, "lengths must be in [1, 1024].")
    last = about.first_item_id + about.num_items
    need(min(tokens) >= 0 and max(tokens) < last, f"token_ids must be in [0, {last}).")
    need(sum(sizes) <= limits.MAX_ROWS, "a request must ask for at most 32,768 rows.")
    entries = request.compression.samples or request.compression.top_k or about.vocab_size
    most = limits.MAX_DRAWS if request.compression.samples else limits.MAX_REPLY_ENTRIES
    need(sum(sizes) * min(entries, most + 1) <= most, "the reply would be too large.")
    ranges, ends = zip(starts, sizes, strict=True), itertools.accumulate(lengths)
    for end, length, count in zip(ends, lengths, counts, strict=True):
        free, first = 0, end - length
        for start, size in itertools.islice(ranges, count):
            is_next = size >= 1 and free <= start and start + size <= length
            need(is_next, "ranges must be in order, disjoint and within their sequence.")
            free = start + size
            yield tokens[first : first + free], size


def need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
