"""The requests of one round as device batches with little padding.

The examples of all requests are sorted by length and divided into batches of about one size; the
rows go back to their requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from protos.codec import TargetRows, concat_rows
from protos.teacher_pb2 import Compression
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.score_work import ScoreWork
from trainer.data.model_input import SequenceInput

ScoreFn = Callable[[Sequence[SequenceInput], Compression], TargetRows]


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """Limits of one round and of the queue before it."""

    token_budget: int = 4096
    """Examples of a device batch times the ids of its longest; a longer one goes alone. Columns are
    padded each on its own, so a teacher that takes all three may hold three times as many."""
    max_examples: int = 256
    """Examples in one device batch."""
    max_round_entries: int = 1 << 23
    """Row entries that the requests of one round may keep; a larger request goes alone."""
    max_delay_s: float = 0.002
    """How long a round gathers requests unless they fill it: from the start of the round before,
    or, on an idle device, from the first request."""
    max_queue_bytes: int = 32 << 20
    """Request bytes in the queue; streams are not read while it is full."""


def plan_batches(
    lengths: Sequence[int], *, token_budget: int, max_examples: int
) -> list[list[int]]:
    """Indices of the examples in each device batch: sorted by length, longest first.

    A batch's examples times its longest length stays within token_budget, unless it is one example.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = not batches or len(batches[-1]) >= max_examples
        if full or (len(batches[-1]) + 1) * longest > token_budget:
            batches.append([])
            longest = max(1, lengths[index])
        batches[-1].append(index)
    return batches


def score_together(
    score: ScoreFn,
    works: Sequence[ScoreWork],
    limits: BatchLimits,
    *,
    counters: ReplicaCounters | None = None,
) -> list[TargetRows]:
    """The rows of each work, all of one compression, as if each had been scored alone."""
    inputs = [example for work in works for example in work.inputs]
    plan = plan_batches(
        [example.size for example in inputs],
        token_budget=limits.token_budget,
        max_examples=limits.max_examples,
    )
    if counters is not None:
        _count_fill(counters, [[inputs[i].size for i in batch] for batch in plan])
    rows = concat_rows([score([inputs[i] for i in batch], works[0].compression) for batch in plan])
    counts = np.array([each.num_rows for each in inputs])
    in_batch_order = np.concatenate([np.asarray(batch) for batch in plan])
    starts = np.empty(len(inputs), dtype=np.int64)
    starts[in_batch_order] = np.cumsum(counts[in_batch_order]) - counts[in_batch_order]
    results, first = [], 0
    for work in works:
        mine = slice(first, first + len(work.inputs))
        index_R = [
            np.arange(start, start + count)
            for start, count in zip(starts[mine], counts[mine], strict=True)
        ]
        results.append(rows.take(np.concatenate(index_R)))
        first += len(work.inputs)
    return results


def _count_fill(counters: ReplicaCounters, lengths_of_batches: list[list[int]]) -> None:
    for lengths in lengths_of_batches:
        tokens, slots = sum(lengths), len(lengths) * max(1, *lengths)
        counters.batch_tokens += tokens
        counters.batch_slots += slots
        counters.batch_fill.observe(tokens / slots)
