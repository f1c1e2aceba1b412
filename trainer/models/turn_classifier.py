"""Eq. 12: which action token opens the response, [GEN] or [REC], read off the context alone.

KGSF's encoder over the last tokens of the context, mean pooling, two logits. The paper gives no
size ("transformer encoder with a head"); that of KGSF is the default.

B examples, L padded length, D hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from protos.teacher_pb2 import Description
from trainer.common.atomic import write_bytes
from trainer.common.errors import InputError
from trainer.data.vocabulary import Vocabulary
from trainer.models.frozen import (
    CONFIG_NAME,
    REMEDY,
    WEIGHTS_NAME,
    read_card,
    read_shape,
    write_card,
    write_shape,
)
from trainer.models.kg_transformer import EncoderLayer, sinusoids
from trainer.models.room import check_fits, module_bytes
from trainer.models.weights import load_state, rebuild

GEN, REC = 0, 1
PREDICT_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ClassifierShape:
    """The sizes that rebuild the module; stored in config.json."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    max_tokens: int
    """Tokens of the context that are read, the last ones."""


class TurnClassifier(nn.Module):
    """Transformer encoder, mean over the tokens, two logits: [GEN] = 0, [REC] = 1."""

    def __init__(self, shape: ClassifierShape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden_size
        self.tokens = nn.Embedding(shape.vocab_size, size)
        nn.init.normal_(self.tokens.weight, std=size**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            [EncoderLayer(size, shape.num_heads, dropout) for _ in range(shape.num_layers)]
        )
        self.head = nn.Linear(size, 2)

    def forward(self, input_ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits, float [B, 2].

        Args:
            input_ids_BL: int64 [B, L], right-padded with anything, L <= max_tokens.
            lengths_B: int64 [B], tokens of each example, at least 1.
        """
        size, length = self.shape.hidden_size, input_ids_BL.shape[1]
        column_L = torch.arange(length, device=input_ids_BL.device)
        is_token_BL = column_L < lengths_B[:, None]
        # Positions count from the end: what was said last has the same place in every context.
        from_end_BL = (lengths_B[:, None] - 1 - column_L).clamp(min=0)
        # Pads become one fixed token first, so that no pad can change a bit of the output.
        states_BLD = self.tokens(input_ids_BL.masked_fill(~is_token_BL, 0)) * size**0.5
        states_BLD = self.dropout(states_BLD + sinusoids(length, size).to(states_BLD)[from_end_BL])
        for layer in self.layers:
            states_BLD = layer(states_BLD, is_token_BL)
        sums_BD = states_BLD.masked_fill(~is_token_BL[..., None], 0.0).sum(1)
        return self.head(sums_BD / lengths_B[:, None])

    @torch.inference_mode()
    def predict(self, contexts: Sequence[np.ndarray]) -> np.ndarray:
        """Whether each response recommends, bool [B], from contexts of token ids, none empty."""
        self.eval()
        recommends_B = np.zeros(len(contexts), dtype=bool)
        # Alike lengths together: less padding.
        order = np.argsort([len(context) for context in contexts], kind="stable")
        for start in range(0, len(order), PREDICT_BATCH):
            rows = order[start : start + PREDICT_BATCH]
            logits_B2 = self(*self.collate([contexts[row] for row in rows]))
            recommends_B[rows] = (logits_B2[:, REC] > logits_B2[:, GEN]).cpu().numpy()
        return recommends_B

    def collate(self, contexts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """The last tokens of each context, right-padded, and their lengths; int64.

        Raises:
            InputError: if a context is empty.
        """
        kept = [context[-self.shape.max_tokens :] for context in contexts]
        lengths = np.array([len(context) for context in kept], dtype=np.int64)
        if len(kept) == 0 or lengths.min() == 0:
            raise InputError("each context must have at least one token, got an empty one.")
        input_ids_BL = np.zeros((len(kept), lengths.max()), dtype=np.int64)
        for row_L, context in zip(input_ids_BL, kept, strict=True):
            row_L[: len(context)] = context
        device = self.head.weight.device
        return torch.from_numpy(input_ids_BL).to(device), torch.from_numpy(lengths).to(device)


def export_classifier(folder: Path, classifier: TurnClassifier, vocabulary: Vocabulary) -> None:
    """Write weights, vocabulary and, last, the card."""
    state = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    write_bytes(folder / WEIGHTS_NAME, save(state))
    write_shape(folder, "classifier", dataclasses.asdict(classifier.shape))
    vocabulary.save(folder)
    card = Description(
        kind="classifier",
        vocabulary_digest=vocabulary.digest,
        max_tokens=classifier.shape.max_tokens,
    )
    write_card(folder, card)


def check_classifier_fits(shape: ClassifierShape) -> None:
    """Raise InputError if this machine's memory is less than the weights of a classifier."""
    num_bytes = module_bytes(
        lambda layers: TurnClassifier(dataclasses.replace(shape, num_layers=layers)),
        shape.num_layers,
    )
    check_fits(
        f"a classifier of hidden_size {shape.hidden_size} and num_layers {shape.num_layers}",
        num_bytes,
    )


def _build(shape: ClassifierShape) -> TurnClassifier:
    check_classifier_fits(shape)
    return TurnClassifier(shape)


def load_classifier(folder: Path) -> tuple[TurnClassifier, Description]:
    """A frozen classifier, on the CPU in eval mode, and its card.

    Raises:
        FileNotFoundError: if the folder or its card is missing.
        InputError: if it is another kind of model, or its weights are not those of the card.
    """
    card = read_card(folder, "classifier")
    shape = read_shape(folder, "classifier")
    names = {field.name for field in dataclasses.fields(ClassifierShape)}
    if set(shape) != names:
        raise InputError(
            f"{folder / CONFIG_NAME} must give {sorted(names)}, got {sorted(shape)}. {REMEDY}"
        )
    path = folder / CONFIG_NAME
    classifier = rebuild(path, lambda: _build(ClassifierShape(**shape)))
    expected = {name: tuple(tensor.shape) for name, tensor in classifier.state_dict().items()}
    classifier.load_state_dict(load_state(folder / WEIGHTS_NAME, expected))
    return classifier.eval().requires_grad_(False), card
