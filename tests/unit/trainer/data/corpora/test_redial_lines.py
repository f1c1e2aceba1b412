from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.data.corpora.redial_lines import read_dialogues
from trainer.data.dialogue import Message, split_mentions


def record(**changes: Any) -> dict[str, Any]:
    return {
        "conversationId": "7",
        "initiatorWorkerId": 1,
        "respondentWorkerId": 2,
        "movieMentions": {"12345": "Alien  (1979)", "54321": None},
        "messages": [
            {"messageId": 1, "timeOffset": 0, "senderWorkerId": 2, "text": "Hi, seen @12345?"},
            {"messageId": 2, "timeOffset": 9, "senderWorkerId": 1, "text": ""},
        ],
        "respondentQuestions": [],
        "initiatorQuestions": [],
        **changes,
    }


def write_lines(path: Path, *records: dict[str, Any] | str) -> Path:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_read_dialogues_takes_roles_from_worker_ids_and_cleans_titles(tmp_path: Path) -> None:
    (dialogue,) = read_dialogues(write_lines(tmp_path / "train_data.jsonl", record()))
    assert dialogue.dialogue_id == "7"
    assert dialogue.messages == (
        Message("recommender", "Hi, seen @12345?"),
        Message("seeker", ""),
    )
    assert dialogue.titles == {"12345": "Alien (1979)", "54321": ""}


def test_read_dialogues_with_empty_lists_and_blank_lines_is_valid(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", record(movieMentions=[], messages=[]), "  ")
    (dialogue,) = read_dialogues(path)
    assert dialogue.messages == () and dialogue.titles == {}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ('{"conversationId": ', "must be one JSON object"),
        ("[1]", "got a list"),
        (record(conversationId="7"), "conversationId must be unique"),
        (record(conversationId=None), "conversationId must be a string or a number"),
        (record(conversationId=8, movieMentions=[1]), "movieMentions must be an object"),
        (record(conversationId=8, movieMentions={"1": 2}), "must be a title or null"),
        (record(conversationId=8, messages={}), "messages must be a list"),
        (record(conversationId=8, messages=[1]), "must be an object"),
        (record(conversationId=8, messages=[{"text": "x"}]), "senderWorkerId must be given"),
        (
            record(conversationId=8, messages=[{"text": None, "senderWorkerId": 1}]),
            "text must be a string",
        ),
        (
            record(conversationId=8, messages=[{"text": "x", "senderWorkerId": 3}]),
            "must be one of 1, 2, got 3",
        ),
        (
            record(conversationId=8, messages=[{"text": "x \ud83d", "senderWorkerId": 1}]),
            "must be Unicode, got half a surrogate pair at 2",
        ),
        (record(conversationId=8, respondentWorkerId=1), "must differ"),
        ({"conversationId": 8}, "movieMentions must be given"),
    ],
)
def test_read_dialogues_with_bad_line_names_file_and_line(
    tmp_path: Path, bad: dict[str, Any] | str, expected: str
) -> None:
    path = write_lines(tmp_path / "train_data.jsonl", record(), bad)
    with pytest.raises(ValueError, match=expected) as caught:
        list(read_dialogues(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


def test_read_dialogues_with_bytes_that_are_not_utf8_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "train_data.jsonl"
    path.write_bytes(b'{"conversationId": "\xff"}\n')
    with pytest.raises(ValueError, match=r"train_data\.jsonl:1: .*UTF-8"):
        list(read_dialogues(path))


def test_read_dialogues_with_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one dialogue"):
        list(read_dialogues(write_lines(tmp_path / "valid_data.jsonl")))
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl must be a file"):
        list(read_dialogues(tmp_path / "absent.jsonl"))


@pytest.mark.redial
def test_split_mentions_joined_again_gives_every_real_message_back(redial_dir: Path) -> None:
    for dialogue in read_dialogues(redial_dir / "test_data.jsonl"):
        for message in dialogue.messages:
            pieces = split_mentions(message.text, dialogue.titles)
            joined = "".join(p if isinstance(p, str) else f"@{p.movie_id}" for p in pieces)
            assert joined == message.text
