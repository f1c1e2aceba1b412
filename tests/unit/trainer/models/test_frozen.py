"""The card of a frozen folder: the wire's Description as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protos.fingerprint import digest_file
from protos.teacher_pb2 import Description
from trainer.data.model_input import InputLimits
from trainer.models.frozen import CARD_NAME, WEIGHTS_NAME, read_card, write_card

CARD = Description(
    kind="recommendation",
    vocabulary_digest="vocabulary-a",
    graph_digest="graph-a",
    max_entities=16,
    num_entities=50,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / WEIGHTS_NAME).write_bytes(b"weights")
    return tmp_path


def test_card_comes_back_with_the_weights_digest_and_temperature_1(folder: Path) -> None:
    written = write_card(folder, CARD)
    assert read_card(folder, "recommendation") == written
    assert written.weights_digest == digest_file(folder / WEIGHTS_NAME)
    assert written.temperature == 1.0
    assert InputLimits.of(written) == InputLimits(max_entities=16)


def test_card_with_a_temperature_keeps_it(folder: Path) -> None:
    card = Description(temperature=2.0)
    card.MergeFrom(CARD)
    write_card(folder, card)
    assert json.loads((folder / CARD_NAME).read_text())["temperature"] == 2.0
    assert read_card(folder, "recommendation").temperature == 2.0


def test_card_that_lists_all_fields_is_read(folder: Path) -> None:
    # The layout of folders that were fitted before the card was a Description.
    content = {
        **{"kind": "dialogue", "vocabulary_digest": "vocabulary-a"},
        **{"weights_digest": digest_file(folder / WEIGHTS_NAME), "graph_digest": ""},
        **{"max_tokens": 64, "max_entities": 0, "max_words": 0},
        **{"num_entities": 0, "num_words": 0, "temperature": 1.0},
    }
    (folder / CARD_NAME).write_text(json.dumps(content))
    card = read_card(folder, "dialogue")
    assert InputLimits.of(card) == InputLimits(max_tokens=64)
    assert (card.vocabulary_digest, card.temperature) == ("vocabulary-a", 1.0)
    del content["temperature"]
    (folder / CARD_NAME).write_text(json.dumps(content))
    assert read_card(folder, "dialogue").temperature == 1.0


@pytest.mark.parametrize("text", ["{", "[1]", '{"kind": 3}', '{"other": 1}', '{"max_tokens": -1}'])
def test_card_that_is_no_description_is_refused(folder: Path, text: str) -> None:
    (folder / CARD_NAME).write_text(text)
    with pytest.raises(ValueError, match=r"teacher\.json must .*, got.* Export the model again\."):
        read_card(folder, "dialogue")


def test_card_of_other_weights_is_refused(folder: Path) -> None:
    write_card(folder, CARD)
    (folder / WEIGHTS_NAME).write_bytes(b"other")
    with pytest.raises(ValueError, match="was changed or torn"):
        read_card(folder, "recommendation")
