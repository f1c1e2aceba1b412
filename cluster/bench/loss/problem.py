"""The random problem of the loss benchmark: a student's states, and rows of two teachers.

P positions, B examples, R rows, K entries of a row, V vocabulary, N ids of a support, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from protos.codec import TargetRows
from protos.target_rows import ITEM_MASS, Targets
from trainer.data.loader import Positions
from trainer.kinds.names import DIALOGUE, RECOMMENDATION

POSITIONS_PER_EXAMPLE = 16
# Of ReDial's 57,184 ids the last 6,924 are items.
SHARE_OF_ITEMS = 6_924 / 57_184
TAIL = 0.25
"""Mass that teachers do not send: at 64 entries the fitted dialogue teacher keeps .75."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a problem is; the defaults are DialoGPT-small's over ReDial's vocabulary."""

    positions: int
    vocab_size: int = 57_184
    hidden_size: int = 768
    num_entries: int = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What the loss is given in training: states, output weight, gold tokens and rows.

    Attributes:
        hidden_PD: float32 [P, D], a leaf.
        head: its weight is float32 [V, D], a leaf.
        positions: gold tokens, examples and weights, on the CPU.
        targets: rows of the same number of entries each.
        items: ids of the items.
    """

    hidden_PD: Tensor
    head: nn.Linear
    positions: Positions
    targets: Targets
    items: range


def make_problem(shape: Shape, device: torch.device, *, tail: float = TAIL) -> Problem:
    """A random problem, the same one for the same shape; tail: the mass that teachers hold back."""
    generator = torch.Generator().manual_seed(0)
    num_positions, vocab_size = shape.positions, shape.vocab_size
    head = nn.Linear(shape.hidden_size, vocab_size, bias=False)
    # Logits of standard deviation 1.
    nn.init.normal_(head.weight, std=shape.hidden_size**-0.5, generator=generator)
    hidden_PD = torch.randn(num_positions, shape.hidden_size, generator=generator)
    labels_P = torch.randint(0, vocab_size, (num_positions,), generator=generator)
    items = range(vocab_size - round(SHARE_OF_ITEMS * vocab_size), vocab_size)
    example_P = torch.arange(num_positions) // POSITIONS_PER_EXAMPLE
    num_examples = int(example_P[-1]) + 1
    rows = [
        _random_rows(num_rows, support, items, tail, shape.num_entries, generator)
        for num_rows, support in ((num_positions, range(vocab_size)), (num_examples, items))
    ]
    return Problem(
        hidden_PD=hidden_PD.to(device).requires_grad_(),
        head=head.to(device),
        positions=Positions(
            labels_P=labels_P,
            example_P=example_P,
            weight_P=torch.full((num_positions,), 1.0 / POSITIONS_PER_EXAMPLE),
            is_item_P=labels_P >= items.start,
        ),
        targets={DIALOGUE: rows[0], RECOMMENDATION: rows[1]},
        items=items,
    )


def _random_rows(
    num_rows: int,
    support: range,
    items: range,
    tail: float,
    num_entries: int,
    generator: torch.Generator,
) -> TargetRows:
    """Entries all over the support, one in each of K equal parts of it, so none comes twice."""
    width = len(support) // num_entries
    within_RK = torch.randint(0, width, (num_rows, num_entries), generator=generator)
    ids_RK = support.start + torch.arange(num_entries) * width + within_RK
    scores_RK = 2.0 * torch.randn(num_rows, num_entries, generator=generator)
    probs_RK = (1.0 - tail) * scores_RK.softmax(-1)
    # The tail lies evenly on the support, on items too.
    kept_item_R = (probs_RK * (ids_RK >= items.start)).sum(-1)
    item_mass_R = kept_item_R + tail * len(items) / len(support)
    return TargetRows(
        counts_R=np.full(num_rows, num_entries, np.int32),
        ids_E=ids_RK.flatten().numpy().astype(np.int32),
        log_probs_E=probs_RK.log().flatten().numpy(),
        tail_R=np.full(num_rows, tail, np.float32),
        masses={ITEM_MASS: item_mass_R.clamp(max=1.0).numpy()},
        vocab_size=items.stop,
    )


def entries(rows: TargetRows) -> tuple[Tensor, Tensor]:
    """Ids, int64 [R, K], and probabilities, float32 [R, K], of rows that are all of one length."""
    ids_RK = torch.from_numpy(rows.ids_E.reshape(rows.num_rows, -1).astype(np.int64))
    return ids_RK, torch.from_numpy(rows.log_probs_E).view(ids_RK.shape).exp()


def whole_rows(rows: TargetRows, support: range, device: torch.device) -> Tensor:
    """What the teacher would have sent whole, float32 [R, N]: its tail lies evenly on the rest."""
    ids_RK, probs_RK = entries(rows)
    rest_R1 = torch.from_numpy(rows.tail_R)[:, None] / (len(support) - ids_RK.shape[1])
    whole_RN = torch.empty(rows.num_rows, len(support), device=device)
    whole_RN.copy_(rest_R1.expand(whole_RN.shape))
    return whole_RN.scatter_(1, (ids_RK - support.start).to(device), probs_RK.to(device))
