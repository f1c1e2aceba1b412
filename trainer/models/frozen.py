"""The card of a frozen model: what it is and the digests that the handshake compares.

An exported folder holds `teacher.json` (this card), `config.json` (the sizes that rebuild the
module), `model.safetensors`, `vocabulary.json` and `tokenizer/`; the folder of a dialogue teacher
that is a causal LM also loads with `transformers.AutoModelForCausalLM`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from protos.fingerprint import digest_file
from trainer.common.atomic import write_json
from trainer.data.model_input import InputLimits

CARD_NAME = "teacher.json"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

ShapeKind = Literal["kg-transformer", "recommendation", "classifier"]


@dataclass(frozen=True, kw_only=True)
class FrozenCard:
    """What a frozen model's folder says of itself."""

    kind: str
    """Of a teacher, or classifier."""
    vocabulary_digest: str
    weights_digest: str
    max_tokens: int = 0
    """Of one example, with the response; 0: the model takes none. So with all limits below."""
    max_entities: int = 0
    """Entities of one example that are used, the last ones."""
    max_words: int = 0
    """Words of one example that are used, the last ones."""
    num_entities: int = 0
    """Entity ids are below this."""
    num_words: int = 0
    """Word ids are below this."""
    graph_digest: str = ""
    """Of the films' and the words' graph; empty for a model that takes tokens alone."""
    temperature: float = 1.0

    @property
    def limits(self) -> InputLimits:
        """What it takes of one example."""
        return InputLimits(
            max_tokens=self.max_tokens, max_entities=self.max_entities, max_words=self.max_words
        )


def write_card(folder: Path, card: FrozenCard) -> None:
    """Write the card last, so that a folder with a card is a whole folder."""
    write_json(folder / CARD_NAME, dataclasses.asdict(card))


def write_shape(folder: Path, kind: ShapeKind, shape: dict[str, int]) -> None:
    """Write the sizes of a module of our own; Hugging Face writes its models' config itself."""
    write_json(folder / CONFIG_NAME, {"model_type": f"conkd-{kind}", **shape})


def read_shape(folder: Path, kind: ShapeKind) -> dict[str, int]:
    """The sizes that `write_shape` wrote.

    Raises:
        FileNotFoundError: if there is no config.json.
        ValueError: if it is not one of this kind of model.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must hold the model's sizes, got no file. Export it again."
        )
    try:
        shape = json.loads(path.read_text())
        model_type = shape.pop("model_type")
        sizes = {name: int(size) for name, size in shape.items()}
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must hold model_type and whole numbers, got {error!r}. Export the model again."
        ) from error
    if model_type != f"conkd-{kind}":
        raise ValueError(f"{path} must be of a conkd-{kind}, got {model_type}.")
    return sizes


def read_card(folder: Path, kind: str) -> FrozenCard:
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


def check_frozen(folder: Path, kind: str, vocabulary_digest: str) -> None:
    """Raise as `read_card` does, and ValueError unless it was fitted on this vocabulary."""
    card = read_card(folder, kind)
    if card.vocabulary_digest != vocabulary_digest:
        raise ValueError(
            f"the {kind} model in {folder} must have the data's vocabulary {vocabulary_digest}, "
            f"got {card.vocabulary_digest}. Fit it on the same prepared data."
        )
