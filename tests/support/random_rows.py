"""Random rows of given lengths, for tests of the wire."""

from __future__ import annotations

import numpy as np

from protos.target_rows import ITEM_MASS, TargetRows

VOCAB_SIZE = 1000


def rows_of(counts: list[int], seed: int, vocab_size: int = VOCAB_SIZE) -> TargetRows:
    rng = np.random.default_rng(seed)
    ids, probs, tails = [], [], []
    for count in counts:
        ids.append(np.sort(rng.choice(vocab_size, count, replace=False)))
        mass = rng.dirichlet(np.ones(count + 1))
        probs.append(np.maximum(mass[:count], 1e-8))
        tails.append(mass[count])
    return TargetRows(
        counts_R=np.array(counts, np.int32),
        ids_E=np.concatenate([*ids, np.empty(0)]).astype(np.int32),
        log_probs_E=np.log(np.concatenate([*probs, np.empty(0)])).astype(np.float32),
        tail_R=np.array(tails, np.float32),
        masses={ITEM_MASS: rng.random(len(counts)).astype(np.float32)},
        vocab_size=vocab_size,
    )
