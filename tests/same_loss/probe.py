"""Encodes fixed rows in every value format; run in a tree: `run_tree.py --tree T probe.py FOLDER`.

R rows, E entries of all rows together, V vocabulary.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from protos import codec
from protos.target_rows import ITEM_MASS, TargetRows

# By the wire's own numbers, which no release may change.
VALUE_FORMATS = {"float32": 1, "float16": 2, "uint8": 3}
# V, and the largest number of entries in a row: counts of one and of two bytes, escapes, and ids
# beyond 16 bits.
SHAPES = ((50, 50), (1_456, 64), (57_184, 2_048), (70_000, 300))
NUM_ROWS = 40


def fixed_rows(vocab_size: int, max_entries: int) -> TargetRows:
    """Rows of 0 to max_entries entries, the same in every process."""
    rng = np.random.default_rng([vocab_size, max_entries])
    counts_R = rng.integers(0, max_entries + 1, NUM_ROWS)
    # None, one and all: the ends of the range.
    counts_R[:3] = (0, 1, max_entries)
    ids = [np.sort(rng.choice(vocab_size, count, replace=False)) for count in counts_R]
    masses = [rng.dirichlet(np.full(count + 1, 0.5)) for count in counts_R]
    kept_E = np.concatenate([mass[:-1] for mass in masses])
    return TargetRows(
        counts_R=counts_R.astype(np.int32),
        ids_E=np.concatenate(ids).astype(np.int32),
        log_probs_E=np.log(np.maximum(kept_E, 1e-12)).astype(np.float32),
        tail_R=np.array([mass[-1] for mass in masses], np.float32),
        masses={ITEM_MASS: rng.random(NUM_ROWS).astype(np.float32)},
        vocab_size=vocab_size,
    )


def main(folder: Path) -> None:
    """Write one file per shape and value format."""
    folder.mkdir(parents=True)
    for vocab_size, max_entries in SHAPES:
        rows = fixed_rows(vocab_size, max_entries)
        for name, number in VALUE_FORMATS.items():
            path = folder / f"{name}-of-{vocab_size}.block"
            path.write_bytes(codec.encode(rows, number))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
