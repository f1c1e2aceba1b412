from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pytest
from rich.progress import Progress

from trainer.common.errors import InputError
from trainer.data.dialogue import BadRecord, Dialogue, Message, Origin, Split
from trainer.data.splits import LoadedSplits, Record, draw_valid, load_splits


def dialogue(dialogue_id: str, text: str = "", **titles: str) -> Dialogue:
    movies = {movie.removeprefix("m"): title for movie, title in titles.items()}
    return Dialogue(dialogue_id, (Message("seeker", text),), movies)


def load(
    readers: Mapping[Split, Sequence[Record]],
    movie_ids: frozenset[str] = frozenset(),
    *,
    skip_bad: bool = False,
) -> LoadedSplits:
    with Progress(disable=True) as progress:
        return load_splits(
            readers, movie_ids=movie_ids, valid_seed=0, skip_bad=skip_bad, progress=progress
        )


def three(
    train: Sequence[Record], valid: Sequence[Record], test: Sequence[Record]
) -> dict[Split, Sequence[Record]]:
    return {"test": test, "valid": valid, "train": train}


def test_draw_valid_of_redials_size_draws_901() -> None:
    dialogues = [Dialogue(str(i), (), {}) for i in range(10_006)]
    train, valid = draw_valid(dialogues, 0)
    assert (len(train), len(valid)) == (9_105, 901)


def test_splits_come_in_one_order_whatever_the_order_of_the_readers() -> None:
    loaded = load(three([dialogue("1")], [dialogue("2")], [dialogue("3")]))
    assert list(loaded.dialogues) == ["train", "valid", "test"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_corpus_without_train_or_test_is_refused(split: Split) -> None:
    other: Split = "test" if split == "train" else "train"
    readers: dict[Split, list[Dialogue]] = {"valid": [dialogue("2")], other: [dialogue("3")]}
    with pytest.raises(ValueError, match=f"splits train and test, got no {split}"):
        load(readers)


@pytest.mark.parametrize(
    ("valid", "expected"),
    [(["1"], "got it in train and valid"), (["3", "3"], "got it in valid and valid")],
)
def test_dialogue_that_occurs_twice_is_refused(valid: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load(three([dialogue("1")], [dialogue(it) for it in valid], [dialogue("2")]))


def test_mention_outside_the_catalogue_is_refused_with_a_remedy() -> None:
    bad = dialogue("7", "seen @12345?", m12345="Alien (1979)")
    with pytest.raises(ValueError, match=r"dialogue 7 of test: .*got @12345\. Add the movie"):
        load(three([dialogue("1")], [dialogue("2")], [bad]), frozenset({"54321"}))


def test_title_outside_the_catalogue_that_is_never_mentioned_is_valid() -> None:
    silent = dialogue("7", "seen @12345?", m54321="Alien (1979)")
    loaded = load(three([dialogue("1")], [dialogue("2")], [silent]), frozenset({"1"}))
    assert loaded.dialogues["test"] == [silent]


def bad(number: int) -> BadRecord:
    return BadRecord(f"train_data.jsonl:{number}", "text must be a string, got None. Write one.")


def test_one_bad_record_is_one_line_with_the_way_to_leave_it_out() -> None:
    with pytest.raises(InputError, match=r"^train_data\.jsonl:3: text .*--skip-bad\.$") as caught:
        load(three([dialogue("1"), bad(3)], [dialogue("2")], [dialogue("3")]))
    assert caught.value.details == ()


def test_all_bad_records_are_told_at_once_up_to_twenty() -> None:
    repeated = dataclasses.replace(dialogue("1"), origin=Origin(place="test_data.jsonl:9"))
    records = three([dialogue("1"), *map(bad, range(1, 25))], [dialogue("2")], [repeated])
    with pytest.raises(InputError, match="got 25 that are not") as caught:
        load(records)
    details = caught.value.details
    assert [it.split(": ")[0] for it in details[:20]] == [
        f"train_data.jsonl:{number}" for number in range(1, 21)
    ]
    assert details[20:] == ("and 5 more",)


def test_skipped_records_are_listed_and_leave_the_others() -> None:
    repeated = dataclasses.replace(dialogue("1"), origin=Origin(place="test_data.jsonl:9"))
    unknown = dialogue("4", "seen @12345?", m12345="Alien (1979)")
    records = three([dialogue("1"), bad(2)], [dialogue("2")], [repeated, unknown, dialogue("5")])
    loaded = load(records, skip_bad=True)
    assert [it.dialogue_id for it in loaded.dialogues["test"]] == ["5"]
    assert loaded.skipped["train"] == [bad(2)]
    assert [it.place for it in loaded.skipped["test"]] == [
        "test_data.jsonl:9",
        "dialogue 4 of test",
    ]
    assert loaded.skipped["valid"] == []
