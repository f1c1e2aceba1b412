"""How likely gold responses are under a language model.

B examples, C positions of a chunk, P response tokens of a batch, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.data.examples import Example
from trainer.data.loader import to_student_input
from trainer.evaluation.loaded_model import LoadedModel

POSITION_CHUNK = 256
"""Positions whose logits are held at once: 59 MB at 57,184 tokens."""


@torch.inference_mode()
def gold_nlls(loaded: LoadedModel, examples: Sequence[Example]) -> list[float]:
    """Nats of each example's response, its end of text included, the gold action token given.

    One forward for all of them; a response's value depends on nothing else in it, but for float
    rounding. Never holds more than [POSITION_CHUNK, V] logits.
    """
    if not examples:
        return []
    model = loaded.model
    inputs = to_student_input(tuple(examples), loaded.vocabulary, loaded.limits)
    of_response = inputs.positions.of_response
    hidden_PD = of_response(model.response_states(inputs.model.to(model.device)))
    labels_P = of_response(inputs.positions.labels_P).to(model.device)
    nll_P = _nlls(hidden_PD, model.head.weight.detach(), labels_P).cpu()
    sums_B = torch.zeros(len(examples), dtype=torch.float64)
    return sums_B.index_add_(0, of_response(inputs.positions.example_P), nll_P).tolist()


def _nlls(hidden_PD: Tensor, weight_VD: Tensor, labels_P: Tensor) -> Tensor:
    """Nats of each label, float64 [P]."""
    chunks: list[Tensor] = []
    for start in range(0, len(labels_P), POSITION_CHUNK):
        chunk = slice(start, start + POSITION_CHUNK)
        logits_CV = hidden_PD[chunk] @ weight_VD.T
        gold_C = logits_CV.gather(1, labels_P[chunk, None]).squeeze(1)
        chunks.append((logits_CV.logsumexp(-1) - gold_C).double())
    return torch.cat(chunks)
