"""Folders of models that were damaged in any way: one line that names the folder, or no harm."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from protos.teacher_pb2 import Description
from tests.support import tiny_teachers
from tests.support.evaluation_fakes import (
    tiny_kg_transformer,
    tiny_vocabulary,
    write_classifier,
    write_dialogue_teacher,
    write_student,
)
from trainer.common.errors import UserError
from trainer.common.text_files import read_json_object
from trainer.config.language_model import LanguageModelConfig
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.loaded_model import load_model
from trainer.models.causal_lm import build_causal_lm
from trainer.models.causal_reading import read_pretrained
from trainer.models.frozen import CARD_NAME, WEIGHTS_NAME, write_card
from trainer.models.frozen_recommender import load_recommender
from trainer.models.language_model import write_language_model
from trainer.models.student_card import STUDENT_CARD_NAME
from trainer.models.turn_classifier import load_classifier

NUM_ITEMS = 30


@functools.cache
def vocabulary() -> Vocabulary:
    return tiny_vocabulary(NUM_ITEMS)


def start_from(folder: Path) -> object:
    """A student whose student.pretrained is the folder."""
    return build_causal_lm(LanguageModelConfig(pretrained=str(folder)), vocabulary())


LOADERS: dict[str, Callable[[Path], object]] = {
    "gpt2": load_model,
    "kgsf": load_model,
    "recommendation": load_recommender,
    "classifier": load_classifier,
    "pretrained": start_from,
    "pretrained student": start_from,
}
CARDS = {
    **dict.fromkeys(("gpt2", "kgsf", "recommendation", "classifier"), CARD_NAME),
    "pretrained student": STUDENT_CARD_NAME,
}
"""Of the kinds that have a card, which has digests."""
HOLD_VOCABULARY = ("gpt2", "kgsf", "pretrained student")
"""The others hold one for people, or none; who serves or trains has the data's."""
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
    write_dialogue_teacher(root / "gpt2", vocabulary(), seed=1)
    (root / "kgsf").mkdir()
    write_language_model(root / "kgsf", tiny_kg_transformer(vocabulary(), seed=1))
    vocabulary().save(root / "kgsf")
    card = Description(kind="dialogue", vocabulary_digest=vocabulary().digest, max_tokens=96)
    write_card(root / "kgsf", card)
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary())
    write_classifier(root / "classifier", vocabulary(), seed=1)
    sizes = GPT2Config(
        vocab_size=vocabulary().base_size, n_embd=16, n_layer=1, n_head=2, n_positions=32
    )
    GPT2LMHeadModel(sizes).save_pretrained(root / "pretrained")
    write_student(root / "pretrained student", vocabulary(), seed=1)
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
    names = ["config.json", WEIGHTS_NAME]
    names += [CARDS[kind]] if kind in CARDS else []
    if kind in HOLD_VOCABULARY:
        names += ["vocabulary.json", "tokenizer/tokenizer.json"]
    for name in names:
        for what, content in {**CONTENTS, "half": None, "none": None}.items():
            copy = Path(shutil.copytree(folders[kind], tmp_path / f"{what}-{Path(name).name}"))
            whole = (copy / name).read_bytes()
            (copy / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
            if what == "none":
                (copy / name).unlink()
            if (name, CARDS.get(kind)) == (WEIGHTS_NAME, CARD_NAME) and what != "none":
                freeze_again(copy)
            message = load(kind, copy)
            # Without its card a student is a model as any other.
            is_free = (kind, name, what) == ("pretrained student", STUDENT_CARD_NAME, "none")
            assert is_free or str(copy) in message, (name, what)
            assert "\n" not in message, message
            shutil.rmtree(copy)


# Each damage builds a whole transformer.
SLOW = ("gpt2", "pretrained", "kgsf")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(
            pytest.param(it, "config.json", marks=[pytest.mark.everything] * (it in SLOW))
            for it in LOADERS
        ),
        *CARDS.items(),
    ],
)
def test_json_with_a_key_gone_or_another_value_is_one_line_or_loaded(
    kind: str,
    name: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Path(shutil.copytree(folders[kind], tmp_path / "copy"))
    # Its files stay as they are: read once.
    monkeypatch.setattr(Vocabulary, "load", functools.cache(Vocabulary.load))
    refused = 0
    for content in changed_values(read_json_object(copy / name)):
        (copy / name).write_text(json.dumps(content))
        message = load(kind, copy)
        refused += message != ""
        assert "\n" not in message, message
    assert refused > 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"n_layer": 2}, "got missing keys transformer.h.1."),
        ({"n_embd": 32}, "transformers reads, got "),
        ({"n_layer": "x"}, "transformers reads, got "),
        ({"n_layer": 10**9}, "got ValueError: 1000000000 layers"),
        ({"n_head": 3}, "got "),
        ({"n_head": 0}, "got "),
        ({"model_type": "t5"}, "must be a causal language model, got one of type t5"),
    ],
)
def test_pretrained_config_that_is_well_formed_and_wrong_is_one_line(
    change: dict[str, Any], problem: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders["pretrained"], tmp_path / "copy"))
    content = read_json_object(copy / "config.json") | change
    (copy / "config.json").write_text(json.dumps(content))
    message = load("pretrained", copy)
    assert str(copy) in message and problem in message, message
    assert "\n" not in message


def test_pretrained_weights_are_never_drawn_at_random_in_silence(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders["pretrained"], tmp_path / "copy"))
    state = load_file(copy / WEIGHTS_NAME)
    gone = "transformer.h.0.mlp.c_fc.weight"
    rest = {name: tensor for name, tensor in state.items() if name != gone}
    save_file(rest, copy / WEIGHTS_NAME, metadata={"format": "pt"})
    assert f"got missing keys {gone}." in load("pretrained", copy)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_pytorchs_own_file_with_other_content_is_one_line(
    content: bytes, folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders["pretrained"], tmp_path / "copy"))
    (copy / WEIGHTS_NAME).unlink()
    (copy / "pytorch_model.bin").write_bytes(content)
    message = load("pretrained", copy)
    assert str(copy) in message and "\n" not in message, message


def test_names_of_the_hubs_gpt2_are_legal(folders: dict[str, Path], tmp_path: Path) -> None:
    """Without a prefix, without the tied output rows, and with masks of before."""
    copy = Path(shutil.copytree(folders["pretrained"], tmp_path / "copy"))
    state = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(copy / WEIGHTS_NAME).items()
        if name != "lm_head.weight"
    }
    state["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    save_file(state, copy / WEIGHTS_NAME, metadata={"format": "pt"})
    model: Any = read_pretrained(str(copy))
    assert torch.equal(model.transformer.wte.weight, state["wte.weight"])
