"""The student as one module: language model and fused loss.

P response positions.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.data.model_input import ModelInput
from trainer.loss.soft_targets import SoftTargets
from trainer.loss.sparse_ce import SparseCrossEntropy
from trainer.models.language_model import LanguageModel, output_head, response_states


class Student(nn.Module):
    """A batch and its sparse targets in, loss out; no logits leave it."""

    def __init__(self, language_model: LanguageModel, *, loss_chunk_size: int) -> None:
        super().__init__()
        self.language_model = language_model
        self.loss = SparseCrossEntropy(output_head(language_model), loss_chunk_size)

    def forward(self, inputs: ModelInput, targets: SoftTargets) -> tuple[Tensor, Tensor]:
        """Loss summed over positions, and the gold tokens' NLL [P] without gradient.

        Args:
            inputs: what the student reads.
            targets: what its P wanted positions should learn.
        """
        return self.loss(response_states(self.language_model, inputs), targets)
