"""A corpus of another format is prepared by the real command, and no product file knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.toy_corpus import FILMS, write_toy_corpus
from trainer.data.__main__ import main
from trainer.data.prepared import load_prepared

PLUGIN = ("--source", "toy", "--plugin", "tests.support.toy_corpus")


def test_toy_corpus_is_prepared_by_the_command(tmp_path: Path) -> None:
    write_toy_corpus(tmp_path / "raw")
    output = tmp_path / "prepared"
    main(["prepare", *PLUGIN, "--input", str(tmp_path / "raw"), "--output", str(output)])
    prepared = load_prepared(output)
    assert prepared.manifest.source == "toy"
    assert prepared.vocabulary.titles == tuple(FILMS)
    assert (prepared.graph.num_entities, prepared.graph.num_relations) == (9, 1)
    assert prepared.words.words == ()
    # Two of the 22 train dialogues were drawn for valid.
    assert len(prepared.manifest.drawn_valid_ids) == 2
    assert [len(prepared.examples(split)) for split in ("train", "valid", "test")] == [40, 4, 12]
    first, second = prepared.examples("test")[:2]
    decode = prepared.vocabulary.decode
    assert decode(first.context_ids.tolist()) == "Hi, I loved Heat (1995)!"
    assert decode(first.response_ids.tolist()) == "Then watch Ronin (1998), please."
    assert (first.context_entities.tolist(), first.gold_items.tolist()) == ([0], [1])
    assert decode(second.response_ids.tolist()) == "Enjoy it."


def test_toy_corpus_without_input_or_file_is_refused(tmp_path: Path) -> None:
    output = ("--output", str(tmp_path / "prepared"))
    with pytest.raises(ValueError, match=r"--input must be given for --source toy.*films\.csv"):
        main(["prepare", *PLUGIN, *output])
    with pytest.raises(FileNotFoundError, match=r"films\.csv must be a file of the toy corpus"):
        main(["prepare", *PLUGIN, "--input", str(tmp_path), *output])


def test_corpus_of_a_plugin_is_unknown_without_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got toy\. Name the module that adds it with --plugin"):
        main(["prepare", "--source", "toy", "--input", "x", "--output", str(tmp_path)])
