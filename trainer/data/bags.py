"""Lists of ids of several examples, end to end, without padding.

B examples, E ids of all of them, S ids of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bags:
    """The ids of several examples.

    Attributes:
        ids_E: int64 [E].
        lengths_B: int64 [B], ids of each example; 0 is allowed.
    """

    ids_E: Tensor
    lengths_B: Tensor

    def __post_init__(self) -> None:
        if self.ids_E.ndim != 1 or self.lengths_B.ndim != 1:
            raise ValueError(
                f"ids and lengths must be flat, got shapes {tuple(self.ids_E.shape)} and "
                f"{tuple(self.lengths_B.shape)}. Join the examples' ids end to end, unpadded."
            )
        # On a GPU reading the sum would synchronise; its tensors were checked on the CPU before.
        if self.lengths_B.device.type == "cpu" and int(self.lengths_B.sum()) != len(self.ids_E):
            raise ValueError(
                f"lengths must sum to the number of ids, {len(self.ids_E)}, got "
                f"{int(self.lengths_B.sum())}."
            )

    @staticmethod
    def of(rows: Sequence[np.ndarray], device: torch.device | None = None) -> Bags:
        """The bags of at least one example."""
        return Bags(
            torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(device),
            torch.tensor([len(row) for row in rows], device=device),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Bags:
        """The same bags of changed tensors: on a device, or in pinned memory."""
        return Bags(change(self.ids_E), change(self.lengths_B))

    def to(self, device: torch.device) -> Bags:
        """A copy on the device."""
        return self.map(lambda tensor: tensor.to(device))

    def select(self, rows_B: Tensor) -> Bags:
        """The bags of the given examples, in their order."""
        lengths_B = self.lengths_B[rows_B]
        first_B = (self.lengths_B.cumsum(0) - self.lengths_B)[rows_B]
        shift_B = first_B - (lengths_B.cumsum(0) - lengths_B)
        index_E = torch.arange(int(lengths_B.sum())) + shift_B.repeat_interleave(lengths_B)
        return Bags(self.ids_E[index_E], lengths_B)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Ids [B, S], right-padded with 0, and bool [B, S]: True at ids; S is at least 1."""
        width = max(1, int(self.lengths_B.max()))
        is_id_BS = torch.arange(width, device=self.ids_E.device) < self.lengths_B[:, None]
        ids_BS = torch.zeros_like(is_id_BS, dtype=torch.int64)
        ids_BS[is_id_BS] = self.ids_E
        return ids_BS, is_id_BS
