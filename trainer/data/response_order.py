"""The order of single responses: slots, from which a global batch takes one example each.

Every example belongs permanently to one of `batch_size` slots; a global batch takes the next
example of every slot, and a rank owns a run of slots. So a rank sees the same examples in every
epoch.

Padding is small because examples of similar length meet. The examples are dealt to the slots in the
order of their lengths, so that all slots have as many of every length; each slot's examples, by
length, are cut in `NUM_BUCKETS` buckets, and shuffled within their bucket anew each epoch: a batch
takes one of each slot from the same bucket, and the batches of all buckets come in random order. So
an example may meet the 1 / NUM_BUCKETS of all examples that are nearest to it in length.
"""

from __future__ import annotations

import numpy as np

NUM_BUCKETS = 24


def assign_slots(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Example indices of every slot, dealt by length; the same in every epoch."""
    rng = np.random.default_rng([seed, 0])
    shuffled = rng.permutation(len(lengths))
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    slots: list[list[int]] = [[] for _ in range(batch_size)]
    for start in range(0, len(by_length), batch_size):
        # The last deal may not reach all slots: which of them have one more is random, too.
        dealt = by_length[start : start + batch_size]
        for slot, index in zip(rng.permutation(batch_size), dealt, strict=False):
            slots[slot].append(int(index))
    return [np.array(slot, np.int64) for slot in slots]


def epoch_order(
    slots: list[np.ndarray], lengths: np.ndarray, epoch_steps: int, seed: int, epoch: int
) -> np.ndarray:
    """Example index at [step of the epoch, slot], int64."""
    rng = np.random.default_rng([seed, 1, epoch])
    # At least two to a bucket, or the same examples would meet in every epoch.
    num_buckets = max(1, min(NUM_BUCKETS, epoch_steps // 2))
    columns = []
    for slot in slots:
        # Random: which examples this epoch leaves out, and the order of those of one length.
        taken = rng.permutation(slot)[:epoch_steps]
        column = taken[np.argsort(lengths[taken], kind="stable")]
        for bucket in np.array_split(column, num_buckets):
            rng.shuffle(bucket)  # a view
        columns.append(column)
    return np.stack(columns, axis=1)[rng.permutation(epoch_steps)]
