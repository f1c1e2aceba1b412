from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.support.toy_corpus import write_toy_corpus
from trainer.data.__main__ import main
from trainer.data.dialogue import Dialogue, FilmAnswers, Message, Questionnaires
from trainer.data.dialogue_examples import merge_turns, turn_numbers
from trainer.data.prepared import load_prepared
from trainer.data.stored_dialogues import read_dialogues, store_dialogues, write_dialogues

ANSWERS = {"10": FilmAnswers(suggested=1, seen=0, liked=2)}
TALK = Dialogue(
    "7:a",
    (
        Message("seeker", "hi", "m1"),
        Message("recommender", "caf\u00e9 @10", "m2"),
        Message("recommender", "@10, not @99", "m3"),
        Message("seeker", ""),
        Message("recommender", "bye"),
    ),
    {"10": "Heat (1995)"},
    Questionnaires(seeker=ANSWERS),
)


def test_dialogues_written_and_read_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "dialogues-test.jsonl"
    stored = store_dialogues([TALK, Dialogue("8", (), {})], [])
    digest = write_dialogues(path, stored)
    assert read_dialogues(path, digest) == stored
    (first, second) = stored
    assert (second.messages, second.questionnaires) == ((), Questionnaires())
    assert [it.message_id for it in first.messages] == ["m1", "m2", "m3", "3", "4"]
    assert [it.mentions for it in first.messages] == [(), ("10",), ("10",), (), ()]
    assert [it.turn for it in first.messages] == turn_numbers(TALK) == [0, 1, 1, 2, 3]
    assert len(merge_turns(TALK)) == 4
    assert [it.message_id for it in first.messages_of(1)] == ["m2", "m3"]
    assert first.questionnaires.seeker == ANSWERS


def test_changed_or_missing_dialogues_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dialogues-test.jsonl"
    with pytest.raises(FileNotFoundError, match="must be a file of dialogues"):
        read_dialogues(path, "0")
    digest = write_dialogues(path, store_dialogues([TALK], []))
    text = path.read_text()
    path.write_text(text.replace("[1, 0, 2]", "[1, 1, 2]"))
    with pytest.raises(ValueError, match="must have the digest of the manifest"):
        read_dialogues(path, digest)
    path.write_bytes(b"\xff" + text.encode())
    with pytest.raises(ValueError, match="must have the digest of the manifest"):
        read_dialogues(path, digest)


def test_every_example_is_a_response_with_its_messages(prepared_dir: Path) -> None:
    prepared = load_prepared(prepared_dir)
    decode = prepared.vocabulary.decode
    titles = dict(zip(prepared.vocabulary.movie_ids, prepared.vocabulary.titles, strict=True))
    for split in ("train", "valid", "test"):
        dialogues = prepared.dialogues(split)
        examples = iter(prepared.examples(split))
        for dialogue in dialogues:
            for turn in dialogue.responses:
                example = next(examples)
                assert example.example_id == f"{dialogue.dialogue_id}:{turn}"
                messages = dialogue.messages_of(turn)
                assert {message.sender for message in messages} == {"recommender"}
                named = [movie for message in messages for movie in message.mentions]
                items = [prepared.vocabulary.item_index(movie) for movie in named]
                assert items == example.gold_items.tolist()
                text = " ".join(message.text for message in messages)
                for movie in named:
                    text = text.replace(f"@{movie}", titles[movie])
                assert text.startswith(decode(example.response_ids.tolist()))
        assert next(examples, None) is None
        raw = (prepared_dir / "raw" / f"{split}_data.jsonl").read_text().splitlines()
        for dialogue, record in zip(dialogues, map(json.loads, raw), strict=True):
            forms = (dialogue.questionnaires.seeker, dialogue.questionnaires.recommender)
            keys = ("initiatorQuestions", "respondentQuestions")
            for answers, key in zip(forms, keys, strict=True):
                as_raw = {movie: dataclasses.asdict(it) for movie, it in answers.items()}
                assert as_raw == (record[key] or {})


def test_plugin_without_ids_or_questionnaires_has_numbers_and_no_answers(tmp_path: Path) -> None:
    write_toy_corpus(tmp_path / "raw")
    plugin = ("--source", "toy", "--plugin", "tests.support.toy_corpus")
    output = tmp_path / "prepared"
    main(["prepare", *plugin, "--input", str(tmp_path / "raw"), "--output", str(output)])
    prepared = load_prepared(output)
    first = prepared.dialogues("test")[0]
    assert [it.message_id for it in first.messages] == ["0", "1", "2", "3"]
    assert first.responses == (1, 3)
    assert first.questionnaires == Questionnaires()
    assert prepared.manifest.splits["test"].oddities.dialogues_without_answers == 6


@pytest.mark.everything
def test_stored_dialogues_of_real_data_are_those_of_an_independent_parse(
    redial_dir: Path, redial_prepared: Path
) -> None:
    prepared = load_prepared(redial_prepared)
    instances = {}
    for split in ("train", "valid", "test"):
        lines = (redial_dir / f"{split}_data.jsonl").read_text().split("\n")
        records = [json.loads(line) for line in lines if line]
        dialogues = prepared.dialogues(split)
        assert [it.dialogue_id for it in dialogues] == [it["conversationId"] for it in records]
        for dialogue, record in zip(dialogues, records, strict=True):
            ids = [str(message["messageId"]) for message in record["messages"]]
            assert [message.message_id for message in dialogue.messages] == ids
            named = [_named(message["text"], record) for message in record["messages"]]
            assert [list(message.mentions) for message in dialogue.messages] == named
            for key, answers in (
                ("initiatorQuestions", dialogue.questionnaires.seeker),
                ("respondentQuestions", dialogue.questionnaires.recommender),
            ):
                as_raw = {movie: dataclasses.asdict(it) for movie, it in answers.items()}
                assert as_raw == (record[key] or {})
        counts = prepared.manifest.splits[split]
        assert sum(len(dialogue.responses) for dialogue in dialogues) == counts.responses
        # The protocol of single messages: a recommender's message that names a film, not the first.
        instances[split] = [
            len(message.mentions)
            for dialogue in dialogues
            for message in dialogue.messages[1:]
            if message.sender == "recommender" and message.mentions
        ]
        twin = [
            len(_named(message["text"], record))
            for record in records
            for message in record["messages"][1:]
            if message["senderWorkerId"] == record["respondentWorkerId"]
            and _named(message["text"], record)
        ]
        assert instances[split] == twin


def _named(text: str, record: dict) -> list[str]:
    """Movies of a raw message, by splitting at "@"."""
    numbers = [part[: len(part) - len(part.lstrip("0123456789"))] for part in text.split("@")[1:]]
    return [number for number in numbers if number in record["movieMentions"]]
