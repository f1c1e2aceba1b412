"""The student as one module: language model and fused loss.

B examples, L input positions, P response positions, D hidden.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from trainer.models.causal_lm import hidden_states, output_head
from trainer.sparse_ce import SoftTargets, SparseCrossEntropy


class Student(nn.Module):
    """Input ids and sparse targets in, loss out; no logits leave it."""

    def __init__(self, language_model: PreTrainedModel, *, loss_chunk_size: int) -> None:
        super().__init__()
        self.language_model = language_model
        self.loss = SparseCrossEntropy(output_head(language_model), loss_chunk_size)

    def forward(
        self, input_ids_BL: Tensor, hidden_index_P: Tensor, targets: SoftTargets
    ) -> tuple[Tensor, Tensor]:
        """Loss summed over positions, and the gold tokens' NLL [P] without gradient.

        Args:
            input_ids_BL: int64 [B, L], right-padded.
            hidden_index_P: int64 [P], rows of the flattened hidden states that count.
            targets: what these positions should learn.
        """
        hidden_BLD = hidden_states(self.language_model, input_ids_BL)
        hidden_PD = hidden_BLD.flatten(0, 1).index_select(0, hidden_index_P)
        return self.loss(hidden_PD, targets)
