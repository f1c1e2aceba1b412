from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.scoring_fakes import tiny_records
from trainer.scoring.card import SystemCard, card_path, read_system_card, write_system_card
from trainer.scoring.records import read_records, to_line, write_records

LINE = {"dialogue": "1", "message": "2", "text": "@7", "slots": [{"item": "7", "ranked": ["7"]}]}


def test_records_written_and_read_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    first, *others = tiny_records()
    rich = dataclasses.replace(first, tokens=12, seconds=0.25, text="caf\u00e9 @1\u2028@1")
    write_records(path, [rich, *others])
    assert read_records(path) == [rich, *others]


def test_a_line_has_the_documented_keys() -> None:
    assert set(json.loads(to_line(tiny_records()[0]))) == {
        *("dialogue", "message", "text", "slots", "ranking"),
        *("tokens", "nll", "gold_tokens", "seconds"),
    }


def test_keys_that_may_be_null_may_be_left_out_and_others_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    path.write_text(f"\n{json.dumps({**LINE, 'mood': 'good'})}\n\n")
    (record,) = read_records(path)
    assert (record.ranking, record.tokens, record.nll) == (None, None, None)
    assert record.slots[0].ranked == ("7",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dialogue": 1}, "dialogue must be a text, got 1"),
        ({"message": ""}, "message must be a text, got ''"),
        ({"text": None}, "text must be a text, got nothing"),
        ({"slots": None}, "slots must be a list, got nothing"),
        ({"slots": [7]}, r'slots\[0\] must be an object with "item"'),
        ({"slots": [{"item": "7"}]}, r"slots\[0\].ranked must be a list of distinct film ids"),
        ({"slots": [{"item": "7", "ranked": ["7", "7"]}]}, r"slots\[0\].ranked must be a list"),
        ({"ranking": [7]}, "ranking must be a list of distinct film ids"),
        ({"tokens": -1}, "tokens must be null or a whole number from 0, got -1"),
        ({"gold_tokens": 0}, "gold_tokens must be null or a whole number from 1, got 0"),
        ({"gold_tokens": True}, "gold_tokens must be null or a whole number"),
        ({"nll": "x"}, "nll must be null or a finite number from 0, got 'x'"),
        ({"nll": float("nan")}, "nll must be null or a finite number from 0, got nan"),
        ({"seconds": -0.5}, "seconds must be null or a finite number from 0"),
    ],
)
def test_a_wrong_line_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{json.dumps({**LINE, 'message': '3', **change})}\n")
    with pytest.raises(ValueError, match=f"system.jsonl:2: {message}"):
        read_records(path)


def test_torn_and_repeated_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{json.dumps(LINE)[:-3]}")
    with pytest.raises(ValueError, match=r"system.jsonl:2 must be JSON"):
        read_records(path)
    path.write_text(f"{json.dumps(LINE)}\n" * 2)
    with pytest.raises(ValueError, match="2: a message must have one record, got a second one of"):
        read_records(path)
    with pytest.raises(FileNotFoundError, match="must be a file, got none there"):
        read_records(tmp_path / "absent.jsonl")


def test_a_card_written_and_read_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    card = SystemCard(system="ours", split="test", latency_ms_median=5.5, latency_ms_p90=7.0)
    write_system_card(path, card)
    assert card_path(path) == tmp_path / "system.json"
    assert read_system_card(path) == card


def test_a_system_without_card_has_the_name_of_its_file(tmp_path: Path) -> None:
    assert read_system_card(tmp_path / "theirs.jsonl") == SystemCard(system="theirs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": 3}, "system in .* must be null or a text, got 3"),
        ({"seconds": "3"}, "seconds in .* must be null or a finite number from 0, got '3'"),
        ({"latency_ms_p90": -1}, "latency_ms_p90 in .* must be null or a finite number"),
    ],
)
def test_a_wrong_card_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"system": "a", **change}))
    with pytest.raises(ValueError, match=message):
        read_system_card(tmp_path / "a.jsonl")
