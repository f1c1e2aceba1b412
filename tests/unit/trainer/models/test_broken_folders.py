"""Folders of models that were damaged in any way: one line that names the folder, or no harm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protos.teacher_pb2 import Description
from tests.support import tiny_teachers
from tests.support.evaluation_fakes import (
    tiny_kg_transformer,
    tiny_vocabulary,
    write_classifier,
    write_dialogue_teacher,
)
from trainer.common.errors import UserError
from trainer.common.text_files import read_json_object
from trainer.evaluation.loaded_model import load_model
from trainer.models.frozen import CARD_NAME, WEIGHTS_NAME, write_card
from trainer.models.frozen_recommender import load_recommender
from trainer.models.language_model import write_language_model
from trainer.models.turn_classifier import load_classifier

LOADERS: dict[str, Callable[[Path], object]] = {
    "gpt2": load_model,
    "kgsf": load_model,
    "recommendation": load_recommender,
    "classifier": load_classifier,
}
# What is put into a file in the place of its content.
CONTENTS = {
    "empty": b"",
    "garbage": b"\x00\xff\x81garbage" * 20,
    "list": b"[]",
    "number": b"3",
    "deep": b'{"a":' * 100_000,
    "header": b"\xff" * 7 + b"\x00{}",
}
VALUES = [None, "text", -1, 7, 10**30, []]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    vocabulary = tiny_vocabulary(30)
    write_dialogue_teacher(root / "gpt2", vocabulary, seed=1)
    (root / "kgsf").mkdir()
    write_language_model(root / "kgsf", tiny_kg_transformer(vocabulary, seed=1))
    vocabulary.save(root / "kgsf")
    card = Description(kind="dialogue", vocabulary_digest=vocabulary.digest, max_tokens=96)
    write_card(root / "kgsf", card)
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary)
    write_classifier(root / "classifier", vocabulary, seed=1)
    return {name: root / name for name in LOADERS}


def load(kind: str, folder: Path) -> str:
    """What is said about the folder; "" if it is loaded."""
    try:
        LOADERS[kind](folder)
    except UserError as error:
        return str(error)
    return ""


def freeze_again(folder: Path) -> None:
    """Give the card the digest of the weights as they are now."""
    card = read_json_object(folder / CARD_NAME)
    del card["weights_digest"]
    write_card(folder, Description(**card))


def changed_values(content: Any) -> Iterator[Any]:
    """The JSON object with each of its keys gone, and with each value replaced."""
    for key in content:
        yield {name: value for name, value in content.items() if name != key}
        for value in VALUES:
            yield content | {key: value}


@pytest.mark.parametrize("kind", LOADERS)
def test_file_with_other_content_is_one_line(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    names = ["config.json", WEIGHTS_NAME, CARD_NAME]
    # The others hold a vocabulary for people; who serves or trains has the data's.
    if kind in ("gpt2", "kgsf"):
        names += ["vocabulary.json", "tokenizer/tokenizer.json"]
    for name in names:
        for what, content in {**CONTENTS, "half": None, "none": None}.items():
            copy = Path(shutil.copytree(folders[kind], tmp_path / f"{what}-{Path(name).name}"))
            whole = (copy / name).read_bytes()
            (copy / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
            if what == "none":
                (copy / name).unlink()
            if name == WEIGHTS_NAME and what != "none":
                freeze_again(copy)
            message = load(kind, copy)
            assert str(copy) in message, (name, what)
            assert "\n" not in message, message
            shutil.rmtree(copy)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("name", ["config.json", CARD_NAME])
def test_json_with_a_key_gone_or_another_value_is_one_line_or_loaded(
    kind: str, name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders[kind], tmp_path / "copy"))
    refused = 0
    for content in changed_values(read_json_object(copy / name)):
        (copy / name).write_text(json.dumps(content))
        message = load(kind, copy)
        refused += message != ""
        assert "\n" not in message, message
    assert refused > 5
