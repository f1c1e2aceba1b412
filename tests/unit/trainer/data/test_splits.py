from __future__ import annotations

import pytest
from rich.progress import Progress

from trainer.data.dialogue import Dialogue, Message, Split
from trainer.data.splits import LoadedSplits, draw_valid, load_splits


def dialogue(dialogue_id: str, text: str = "", **titles: str) -> Dialogue:
    movies = {movie.removeprefix("m"): title for movie, title in titles.items()}
    return Dialogue(dialogue_id, (Message("seeker", text),), movies)


def load(
    readers: dict[Split, list[Dialogue]], movie_ids: frozenset[str] = frozenset()
) -> LoadedSplits:
    with Progress(disable=True) as progress:
        return load_splits(readers, movie_ids=movie_ids, valid_seed=0, progress=progress)


def three(
    train: list[Dialogue], valid: list[Dialogue], test: list[Dialogue]
) -> dict[Split, list[Dialogue]]:
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
