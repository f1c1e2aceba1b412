from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trainer.data.corpora.redial_lines import read_dialogues
from trainer.data.dialogue import BadRecord, Dialogue, FilmAnswers, Message, split_mentions


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


def read(path: Path) -> list[Dialogue]:
    dialogues = list(read_dialogues(path))
    assert not any(isinstance(it, BadRecord) for it in dialogues)
    return [it for it in dialogues if isinstance(it, Dialogue)]


def write_lines(path: Path, *records: dict[str, Any] | str) -> Path:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_read_dialogues_takes_roles_from_worker_ids_and_cleans_titles(tmp_path: Path) -> None:
    (dialogue,) = read(write_lines(tmp_path / "train_data.jsonl", record()))
    assert dialogue.dialogue_id == "7"
    assert dialogue.messages == (
        Message("recommender", "Hi, seen @12345?", "1"),
        Message("seeker", "", "2"),
    )
    assert dialogue.origin.place == f"{tmp_path / 'train_data.jsonl'}:1"
    assert dialogue.titles == {"12345": "Alien (1979)", "54321": ""}


def test_read_dialogues_with_empty_lists_and_blank_lines_is_valid(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", record(movieMentions=[], messages=[]), "  ")
    (dialogue,) = read(path)
    assert dialogue.messages == () and dialogue.titles == {}


def test_html_entities_and_line_breaks_are_no_words(tmp_path: Path) -> None:
    texts = {
        "&quot;Tom &amp; Jerry&quot; &gt; all": '"Tom & Jerry" > all',
        "R&B, AT&T; &nosuch; Q&A": "R&B, AT&T; &nosuch; Q&A",
        "caf&#233; &#x1F600;": "caf\u00e9 \U0001f600",
        "ok \r\n\r\nfine\rso\nit": "ok fine so it",
        "&amp;quot;": "&quot;",
    }
    messages = [{"senderWorkerId": 1, "text": text} for text in texts]
    titles = {"1": "Tom  &amp; Jerry (1992)"}
    path = write_lines(tmp_path / "a.jsonl", record(messages=messages, movieMentions=titles))
    (dialogue,) = read(path)
    assert [message.text for message in dialogue.messages] == list(texts.values())
    assert dialogue.titles == {"1": "Tom & Jerry (1992)"}


def test_questionnaires_of_both_sides_are_kept(tmp_path: Path) -> None:
    answers = {"12345": {"suggested": 1, "seen": 0, "liked": 2}}
    path = write_lines(
        tmp_path / "a.jsonl",
        record(initiatorQuestions=answers),
        record(conversationId="8", initiatorQuestions=None, respondentQuestions={}),
    )
    first, second = read(path)
    assert first.questionnaires.seeker == {"12345": FilmAnswers(suggested=1, seen=0, liked=2)}
    assert first.questionnaires.recommender == second.questionnaires.seeker == {}


def test_keys_that_a_record_gives_twice_are_counted_and_the_last_counts(tmp_path: Path) -> None:
    text = json.dumps(record()).replace('"54321": null', '"12345": "Aliens (1986)"')
    (dialogue,) = read(write_lines(tmp_path / "a.jsonl", text))
    assert dialogue.titles == {"12345": "Aliens (1986)"}
    assert dialogue.origin.repeated_keys == 1


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ('{"conversationId": ', "must be one JSON object"),
        ("[1]", "got a list"),
        ("[" * 200_000 + "]" * 200_000, "got objects in each other too deep"),
        ('{"a":' * 200_000 + "1" + "}" * 200_000, "got objects in each other too deep"),
        ('{"conversationId": ' + "1" * 5_000 + "}", "must be one JSON object, got Exceeds"),
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
        (record(movieMentions=None), r"movieMentions must be .* got None\. Write \[\] for"),
        (record(movieMentions={"1": "\ud83d"}), "half a surrogate pair"),
        (record(conversationId="\ud83d"), "half a surrogate pair"),
        ({"\ud83d": 1}, r"conversationId must be given, got keys \\ud83d\."),
        (record(initiatorQuestions=[1]), "initiatorQuestions must be an object"),
        (record(initiatorQuestions={"1": 2}), r"initiatorQuestions\['1'\] must be an object"),
        (
            record(respondentQuestions={"1": {"seen": 0, "suggested": 1, "liked": 3}}),
            r"respondentQuestions\['1'\]\.liked must be 0, 1 or 2, got 3\. Write 2",
        ),
    ],
)
def test_bad_line_is_told_with_file_line_rule_value_and_remedy(
    tmp_path: Path, bad: dict[str, Any] | str, expected: str
) -> None:
    path = write_lines(tmp_path / "train_data.jsonl", record(), bad)
    _, told = read_dialogues(path)
    assert isinstance(told, BadRecord)
    assert told.place == f"{path}:2"
    assert re.search(expected, told.problem)
    rule, _, remedy = told.problem.partition(", got ")
    assert " must " in rule and remedy.endswith((".", "NEW")) and ". " in remedy
    assert "\n" not in told.problem and len(told.problem.encode()) < 400


def test_read_dialogues_with_bytes_that_are_not_utf8_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "train_data.jsonl"
    path.write_bytes(b'{"conversationId": "caf\xe9"}\n')
    (told,) = read_dialogues(path)
    assert isinstance(told, BadRecord) and told.place.endswith("train_data.jsonl:1")
    assert "must be UTF-8, got byte 0xe9 at 23." in told.problem
    assert "iconv -f LATIN1 -t UTF-8" in told.problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gzip.compress(b"{}\n", mtime=0), r"got a gzip file\. Decompress it: gunzip"),
        (json.dumps(record()).encode("utf-16"), r"got UTF-16\. Convert it: iconv -f UTF-16"),
        (json.dumps(record()).encode("utf-16-le"), r"got UTF-16\. Convert it"),
        (json.dumps([record()]).encode(), r"got a JSON array\. .*: jq -c '\.\[\]'"),
        (b"\xef\xbb\xbf\n [\n" + json.dumps(record()).encode(), "got a JSON array"),
        (json.dumps(record(), indent=1).encode(), r"got one over several lines\. .*: jq -c \. "),
    ],
)
def test_file_of_another_format_is_one_error_with_the_command_that_converts_it(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "train_data.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train_data\.jsonl must be UTF-8 .*{expected}"):
        list(read_dialogues(path))


def test_read_dialogues_with_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one dialogue"):
        list(read_dialogues(write_lines(tmp_path / "valid_data.jsonl")))
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl must be a file"):
        list(read_dialogues(tmp_path / "absent.jsonl"))


@pytest.mark.redial
def test_split_mentions_joined_again_gives_every_real_message_back(redial_dir: Path) -> None:
    for dialogue in read(redial_dir / "test_data.jsonl"):
        for message in dialogue.messages:
            pieces = split_mentions(message.text, dialogue.titles)
            joined = "".join(p if isinstance(p, str) else f"@{p.movie_id}" for p in pieces)
            assert joined == message.text
