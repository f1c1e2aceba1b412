"""The card of a frozen model: what it is and the digests that the handshake compares.

An exported folder holds `teacher.json` (this card), `model.safetensors`, `vocabulary.json` and
`tokenizer/`; a dialogue teacher's folder also loads with `transformers.AutoModelForCausalLM`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from protos.fingerprint import digest_file
from trainer.atomic import write_json

CARD_NAME = "teacher.json"
WEIGHTS_NAME = "model.safetensors"

Kind = Literal["dialogue", "recommendation", "classifier"]


@dataclass(frozen=True, kw_only=True)
class FrozenCard:
    """What a frozen model's folder says of itself."""

    kind: Kind
    vocabulary_digest: str
    weights_digest: str
    max_input_length: int
    """Longest input of one example: tokens, or entities for a recommendation teacher."""
    graph_digest: str = ""
    """Empty unless the kind is "recommendation"."""
    num_entities: int = 0
    temperature: float = 1.0
    shape: dict[str, int | float] = dataclasses.field(default_factory=dict)
    """The sizes that rebuild the module before its weights are loaded; empty for dialogue."""


def write_card(folder: Path, card: FrozenCard) -> None:
    """Write the card last, so that a folder with a card is a whole folder."""
    write_json(folder / CARD_NAME, dataclasses.asdict(card))


def read_card(folder: Path, kind: Kind) -> FrozenCard:
    """The card of a frozen model, checked against the kind wanted and the weights on disk.

    Raises:
        FileNotFoundError: if the folder or its card is missing.
        ValueError: if the model is of another kind or its weights are not those it was frozen with.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} must be a frozen {kind} model, got no {CARD_NAME} there. "
            f"Make one with: python -m trainer.pretrain {kind} --config FILE --output {folder}"
        )
    try:
        card = FrozenCard(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(
            f"{path} must be the card of a frozen model, got: {error}. Export the model again."
        ) from error
    if card.kind != kind:
        raise ValueError(f"{folder} must hold a {kind} model, got a {card.kind} model.")
    digest = digest_file(folder / WEIGHTS_NAME)
    if digest != card.weights_digest:
        raise ValueError(
            f"{folder / WEIGHTS_NAME} must have digest {card.weights_digest}, got {digest}. "
            "The file was changed or torn; export the model again."
        )
    return card
