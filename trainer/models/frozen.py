"""The card of a frozen model: the wire's Description, as far as its folder alone decides it.

An exported folder holds `teacher.json` (this card), `config.json` (the sizes that rebuild the
module), `model.safetensors`, `vocabulary.json` and `tokenizer/`; the folder of a dialogue teacher
that is a causal LM also loads with `transformers.AutoModelForCausalLM`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from google.protobuf import json_format

from protos.fingerprint import digest_file
from protos.teacher_pb2 import Description
from trainer.common.atomic import write_json
from trainer.common.errors import InputError, MissingError, first_line
from trainer.common.text_files import read_json_object

CARD_NAME = "teacher.json"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
MAX_SIZE = 1 << 31
REMEDY = "Export the model again."

ShapeKind = Literal["kg-transformer", "recommendation", "classifier"]


def write_card(folder: Path, card: Description) -> Description:
    """Make an exported folder a frozen model.

    The card is written last, so that a folder with a card is a whole folder.

    Args:
        folder: holds the weights already.
        card: kind, vocabulary and graph digest, limits and sizes; without a temperature it is 1.

    Returns:
        The card with the weights' digest, as it was written.
    """
    written = Description(temperature=1.0)
    written.MergeFrom(card)
    written.weights_digest = digest_file(folder / WEIGHTS_NAME)
    content = json_format.MessageToDict(written, preserving_proto_field_name=True)
    write_json(folder / CARD_NAME, content)
    return written


def write_shape(folder: Path, kind: ShapeKind, shape: dict[str, int]) -> None:
    """Write the sizes of a module of our own; Hugging Face writes its models' config itself."""
    write_json(folder / CONFIG_NAME, {"model_type": f"conkd-{kind}", **shape})


def read_shape(folder: Path, kind: ShapeKind) -> dict[str, int]:
    """The sizes that `write_shape` wrote.

    Raises:
        MissingError: if there is no config.json.
        InputError: if it is not one of this kind of model.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise MissingError(f"{path} must hold the model's sizes, got no file. Export it again.")
    shape = read_json_object(path, remedy=REMEDY)
    model_type = shape.pop("model_type", None)
    if model_type != f"conkd-{kind}":
        raise InputError(f"{path} must be of a conkd-{kind}, got {model_type}. {REMEDY}")
    for name, size in shape.items():
        if not isinstance(size, int) or not 0 <= size <= MAX_SIZE:
            raise InputError(
                f"{name} in {path} must be a whole number in [0, {MAX_SIZE}], got {size!r}. "
                f"{REMEDY}"
            )
    return shape


def frozen_kind(folder: Path) -> str | None:
    """The kind that a folder's card names, unchecked; None where there is no card."""
    path = folder / CARD_NAME
    return str(read_json_object(path, remedy=REMEDY).get("kind")) if path.is_file() else None


def read_card(folder: Path, kind: str, *, check_weights: bool = True) -> Description:
    """The card of a frozen model, checked against the kind wanted and the weights on disk.

    Without `check_weights` the weights are not read, which takes seconds for large ones.

    Raises:
        MissingError: if the folder or its card is missing.
        InputError: if the model is of another kind or its weights are not those it was frozen with.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise MissingError(
            f"{folder} must be a frozen {kind} model, got no {CARD_NAME} there. "
            f"Make one with: python -m trainer.pretrain {kind} --config FILE --output {folder}"
        )
    try:
        content = read_json_object(path, remedy=REMEDY)
        card = json_format.ParseDict(content, Description(temperature=1.0))
    except json_format.ParseError as error:
        # Its further lines list the fields of the message under other names.
        problem = first_line(error)
        raise InputError(
            f"{path} must be the card of a frozen model, got: {problem}. {REMEDY}"
        ) from error
    if card.kind != kind:
        raise InputError(
            f"{folder} must hold a {kind} model, got a {card.kind} model. Name another folder."
        )
    if check_weights:
        _check_weights(folder / WEIGHTS_NAME, card)
    return card


def _check_weights(path: Path, card: Description) -> None:
    if not path.is_file():
        raise MissingError(f"{path} must hold the model's weights, got no file. {REMEDY}")
    digest = digest_file(path)
    if digest != card.weights_digest:
        raise InputError(
            f"{path} must have digest {card.weights_digest}, got {digest}. "
            "The file was changed or torn; export the model again."
        )


def check_frozen(
    folder: Path, kind: str, vocabulary_digest: str, *, check_weights: bool = True
) -> None:
    """Raise as `read_card` does, and ValueError unless it was fitted on this vocabulary."""
    card = read_card(folder, kind, check_weights=check_weights)
    if card.vocabulary_digest != vocabulary_digest:
        raise InputError(
            f"the {kind} model in {folder} must have the data's vocabulary {vocabulary_digest}, "
            f"got {card.vocabulary_digest}. Fit it on the same prepared data."
        )
