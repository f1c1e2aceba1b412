"""The student as one module: language model and fused loss.

P response positions.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.data.model_input import ModelInput
from trainer.loss.soft_targets import SoftTargets
from trainer.loss.sparse_ce import SparseCrossEntropy
from trainer.models.language_model import LanguageModel


class Student(nn.Module):
    """A batch and its sparse targets in, loss out; no logits leave it."""

    def __init__(self, language_model: LanguageModel, *, loss_chunk_size: int) -> None:
        super().__init__()
        self.language_model = language_model.module
        # A plain object beside the module: it holds no parameters of its own.
        self._response_states = language_model.response_states
        self.loss = SparseCrossEntropy(language_model.head, loss_chunk_size)

    def forward(self, inputs: ModelInput, targets: SoftTargets) -> tuple[Tensor, Tensor, Tensor]:
        """Loss summed over positions; the gold tokens' NLL [P] and closeness, without gradient.

        Args:
            inputs: what the student reads.
            targets: what its P wanted positions should learn.
        """
        return self.loss(self._response_states(inputs), targets)
