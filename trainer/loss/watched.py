"""Where a teacher's first ids are compared with the student's (closeness.py).

A student's first ids need a look over the vocabulary, so they are compared at a few positions of
every micro-batch, drawn evenly from item steps and from word steps apart.

P positions, R rows, E entries, W watched positions, F first ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainer.kinds.names import DIALOGUE, RECOMMENDATION

CLOSE_KINDS = (DIALOGUE, RECOMMENDATION)
CLOSE_STEPS = ("item", "word")
FIRST = 10
"""Ids of a teacher's and of the student's first sets."""
MAX_WATCHED = 16
"""Positions of a teacher, a micro-batch and a sort of steps at which first ids are compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """Positions that learn from a teacher, and its first ids there.

    Attributes:
        kind: index of the teacher's kind in CLOSE_KINDS.
        weight: its part of its kind's mixture.
        position_W: int64 [W], ascending.
        first_WF: int64 [W, F], the row's first ids, best first; -1 where it has fewer.
        is_item_W: bool [W], the gold token is an item.
        place_W: position_W on the CPU, so that a chunk's are known without waiting for a device.
        num_learning: positions that learn from the teacher, watched or not.
        num_items: watched item steps.
    """

    kind: int
    weight: float
    position_W: Tensor
    first_WF: Tensor
    is_item_W: Tensor
    place_W: Tensor
    num_learning: int
    num_items: int

    def map(self, change: Callable[[Tensor], Tensor]) -> Watched:
        """The same with everything changed that goes to the device."""
        return replace(
            self,
            position_W=change(self.position_W),
            first_WF=change(self.first_WF),
            is_item_W=change(self.is_item_W),
        )

    def within(self, chunk: slice) -> slice:
        """Which of W lie in a chunk of positions."""
        start, end = torch.searchsorted(self.place_W, torch.tensor([chunk.start, chunk.stop]))
        return slice(int(start), int(end))


def watch(
    *,
    kind: str,
    weight: float,
    offsets_R1: Tensor,
    ids_E: Tensor,
    probs_E: Tensor,
    row_P: Tensor,
    weight_P: Tensor,
    is_item_P: Tensor,
) -> Watched | None:
    """Choose positions and look up a teacher's first ids there, on the CPU.

    Args:
        kind: of the teacher; None is watched of a kind that is not in CLOSE_KINDS.
        weight: the teacher's part of its kind's mixture.
        offsets_R1, ids_E, probs_E: its rows, as SparseRows has them.
        row_P, weight_P: the row of each position, and how much of it: a position learns above 0.
        is_item_P: whether the gold token is an item.
    """
    if kind not in CLOSE_KINDS:
        return None
    learns_P = weight_P > 0
    chosen = [_spread((learns_P & is_P).nonzero()[:, 0]) for is_P in (is_item_P, ~is_item_P)]
    position_W = torch.cat(chosen).sort().values
    ids, probs, offsets = ids_E.numpy(), probs_E.numpy(), offsets_R1.tolist()
    firsts = [
        _first_ids(ids[offsets[row] : offsets[row + 1]], probs[offsets[row] : offsets[row + 1]])
        for row in row_P[position_W].tolist()
    ]
    return Watched(
        kind=CLOSE_KINDS.index(kind),
        weight=weight,
        position_W=position_W,
        first_WF=torch.from_numpy(np.array(firsts, np.int64).reshape(-1, FIRST)),
        is_item_W=is_item_P[position_W],
        place_W=position_W,
        num_learning=int(learns_P.sum()),
        num_items=int(is_item_P[position_W].sum()),
    )


def _spread(positions_N: Tensor) -> Tensor:
    """At most MAX_WATCHED of the positions, evenly."""
    if len(positions_N) <= MAX_WATCHED:
        return positions_N
    return positions_N[torch.arange(MAX_WATCHED) * len(positions_N) // MAX_WATCHED]


def _first_ids(ids_N: np.ndarray, probs_N: np.ndarray) -> list[int]:
    """A row's FIRST most likely ids, padded by -1; of equally likely ones the lowest first."""
    ids = ids_N[np.argsort(-probs_N, kind="stable")[:FIRST]].tolist()
    return ids + [-1] * (FIRST - len(ids))
