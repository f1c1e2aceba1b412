from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainer.data.prepared import load_prepared
from trainer.scoring.baselines import baseline_records
from trainer.scoring.metrics import scores
from trainer.scoring.paper_view import paper_view
from trainer.scoring.records import Record
from trainer.scoring.scored_split import Key, ScoredSplit, scored_split
from trainer.scoring.sigir26_view import sigir26_sums, sigir26_view


@pytest.fixture(scope="module")
def split(prepared_dir: Path) -> ScoredSplit:
    return scored_split(load_prepared(prepared_dir), "test")


def test_turns_are_the_examples_with_what_was_named_before(
    split: ScoredSplit, prepared_dir: Path
) -> None:
    data = load_prepared(prepared_dir)
    examples = data.examples("test")
    assert len(split.turns) == len(examples)
    dialogue_of = {it.dialogue_id: it for it in split.dialogues}
    for turn, example in zip(split.turns, examples, strict=True):
        items = [data.vocabulary.item_index(film) for film in turn.gold]
        assert items == example.gold_items.tolist()
        messages = dialogue_of[turn.key[0]].messages
        ids = [message.message_id for message in messages]
        before = [film for it in messages[: ids.index(turn.key[1])] for film in it.mentions]
        last = {film: place for place, film in enumerate(before)}
        assert list(turn.named) == sorted(last, key=lambda film: last[film])
        text = data.vocabulary.decode(example.response_ids.tolist()).strip()
        assert turn.num_characters == len(text)


def test_instances_are_messages_with_a_film_but_the_first(split: ScoredSplit) -> None:
    wanted = [
        ((dialogue.dialogue_id, message.message_id), message.mentions)
        for dialogue in split.dialogues
        for message in dialogue.messages[1:]
        if message.sender == "recommender" and message.mentions
    ]
    assert [(it.key, it.gold) for it in split.instances] == wanted


def ranked(key: Key, films: Sequence[str]) -> Record:
    """What a system without text says."""
    return Record(dialogue=key[0], message=key[1], text="", ranking=tuple(dict.fromkeys(films)))


def test_views_read_prepared_data(prepared_dir: Path) -> None:
    data = load_prepared(prepared_dir)
    split = scored_split(data, "test")
    perfect = [
        Record(
            dialogue=it.key[0], message=it.key[1], text="", ranking=tuple(dict.fromkeys(it.gold))
        )
        for it in split.instances
    ]
    found = scores(sigir26_view(perfect, data, "test")["all"])
    assert found["recall_at_50"] == 1.0
    keys = {it.key for it in perfect}
    silent = [
        Record(dialogue=it.key[0], message=it.key[1], text="", ranking=())
        for it in split.turns
        if it.key not in keys
    ]
    assert scores(paper_view([*perfect, *silent], data, "test")["new"])["recall_at_1"] is not None


def test_an_unknown_split_is_refused(prepared_dir: Path) -> None:
    with pytest.raises(ValueError, match="split must be one of train, valid, test, got tset"):
        scored_split(load_prepared(prepared_dir), "tset")


def test_an_empty_split_is_one_line(prepared_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(prepared_dir, tmp_path / "empty"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["test"]["responses"] = 0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "test.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"test\.jsonl must hold at least one example, got none"):
        scored_split(load_prepared(folder), "test")


@pytest.mark.everything
def test_counts_and_copies_of_real_dialogues_are_those_of_an_independent_parse(
    redial_dir: Path, redial_prepared: Path
) -> None:
    split = scored_split(load_prepared(redial_prepared), "test")
    sums = sigir26_sums(baseline_records("copy", split, ()), split)
    both = {variant: scores(it) for variant, it in sums.items()}
    assert (both["all"]["instances"], both["all"]["gold"]) == (637, 758)
    assert (both["new"]["instances"], both["new"]["gold"]) == (573, 666)
    assert all(both["new"][f"recall_at_{k}"] == 0.0 for k in (1, 10, 50))
    hits = {1: 0, 10: 0, 50: 0}
    for line in (redial_dir / "test_data.jsonl").read_text().split("\n"):
        record = json.loads(line) if line else {"messages": []}
        named: list[str] = []
        for index, message in enumerate(record["messages"]):
            films = _films(message["text"], record)
            if index and message["senderWorkerId"] == record["respondentWorkerId"]:
                latest = list(dict.fromkeys(reversed(named)))
                for k in hits:
                    hits[k] += sum(film in latest[:k] for film in films)
            named += films
    for k, expected in hits.items():
        assert both["all"][f"recall_at_{k}"] == pytest.approx(expected / 758)


def _films(text: str, record: dict) -> list[str]:
    """Films of a raw message, by splitting at "@"."""
    numbers = [part[: len(part) - len(part.lstrip("0123456789"))] for part in text.split("@")[1:]]
    return [number for number in numbers if number in record["movieMentions"]]
