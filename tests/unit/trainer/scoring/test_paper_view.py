from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from tests.support.scoring_fakes import (
    FILMS,
    NUM_FILMS,
    random_answers,
    random_split,
    slot,
    tiny_records,
    tiny_split,
)
from trainer.scoring.answers import MissingRecords
from trainer.scoring.metrics import CUTOFFS, scores
from trainer.scoring.paper_view import paper_sums
from trainer.scoring.records import Record
from trainer.scoring.scored_split import ScoredSplit


def test_scores_of_a_tiny_corpus_match_hand_values() -> None:
    found = scores(paper_sums(tiny_records(), tiny_split())["all"])
    expected = {
        "responses": 3,
        "gold": 3,
        "slots": 3,
        # Two places name 1, of which there is one: matched once, two pairs.
        "rer_at_1": 1 / 3,
        "prr_at_1": 1 / 3,
        "f1_at_1": 1 / 3,
        "conventional_rer_at_1": 2 / 3,
        # Within 10 both places find 1 and 2, and the last one 1.
        "f1_at_10": 1.0,
        "conventional_f1_at_10": 5 / 3,
        "conventional_rer_per_gold_response_at_10": 5 / 2,
        # Cut, the first turn has gold film 1 alone.
        "truncated_rer_at_10": 1.0,
        "truncated_prr_at_10": 2 / 3,
        "recall_at_1": 1 / 3,
        "recall_at_10": 1.0,
        "decrease_at_1": 0.0,
        "decrease_at_10": 0.0,
        # The module's first is 2 where the response says 1, twice.
        "mismatch_at_1": 2 / 3,
        "mismatch_at_10": 0.0,
        # Film 1, named before, leads back to itself over its actor.
        "related_prr_at_1": 2 / 3,
        "related_prr_at_10": 1.0,
        "random_related_prr_at_1": 2 / NUM_FILMS,
        "rec_ratio": 2 / 3,
        "gold_rec_ratio": 2 / 3,
        "perplexity": math.exp(6 / 8),
        "bits_per_character": 6 / math.log(2) / 12,
        # see @1 or @1 | @2 | ok ok
        "dist_1": 5 / 7,
        "dist_2": 4 / 4,
        "dist_3": 2 / 2,
        "dist_4": 1 / 1,
        "conventional_dist_1": 5 / 3,
        "conventional_dist_2": 4 / 3,
        "words_per_response": 7 / 3,
        "short_lists": 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_scores_of_new_films_match_hand_values() -> None:
    found = scores(paper_sums(tiny_records(), tiny_split())["new"])
    expected = {
        # The second turn's film was named before: no gold, and the place that names 2 still counts.
        "gold": 2,
        "slots": 3,
        "f1_at_1": 2 / 5,
        "f1_at_10": 4 / 5,
        "recall_at_10": 1.0,
        "mismatch_at_1": 1.0,
        "rec_ratio": 1 / 3,
        "gold_rec_ratio": 1 / 3,
        "related_prr_at_10": 2 / 3,
        "random_related_prr_at_1": (2 * 2 / NUM_FILMS + 1 / (NUM_FILMS - 2)) / 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert not {"perplexity", "dist_2"} & set(found)


def test_counts_lie_with_their_dialogue() -> None:
    sums = paper_sums(tiny_records(), tiny_split())["all"]
    assert sums.dialogues == ("a", "b")
    assert sums.counts["gold"].tolist() == [3.0, 0.0]
    assert sums.counts["ngrams_1"].tolist() == [5.0, 2.0]
    assert sums.counts["nll"].tolist() == [3.0, 3.0]


def test_a_system_that_says_nothing_has_zeros_and_no_quotients_by_zero() -> None:
    records = [Record(dialogue=it.dialogue, message=it.message, text="") for it in tiny_records()]
    found = scores(paper_sums(records, tiny_split())["all"])
    assert (found["rer_at_10"], found["f1_at_10"], found["rec_ratio"]) == (0.0, 0.0, 0.0)
    assert (found["prr_at_10"], found["dist_1"], found["related_prr_at_1"]) == (None, None, None)
    # Neither a list of its own nor a likelihood: such scores are not there.
    assert not {"recall_at_10", "mismatch_at_1", "perplexity"} & set(found)


def test_ranks_at_the_cutoffs_are_exact() -> None:
    split = tiny_split()
    for rank, expected in ((0, [1, 1, 1]), (1, [0, 1, 1]), (10, [0, 0, 1]), (50, [0, 0, 0])):
        others = [film for film in FILMS[3:] if film != "1"][:rank]
        record = Record(dialogue="a", message="1", text="@3", slots=(slot(*others, "1"),))
        if rank == 0:
            record = dataclasses.replace(record, text="@1")
        last = Record(dialogue="a", message="4", text="")
        sums = paper_sums([record, last], split)["all"]
        assert [sums.counts[f"matched_{k}"].sum() for k in CUTOFFS] == expected


def test_a_missing_record_is_named() -> None:
    records = [it for it in tiny_records() if it.message != "4"]
    with pytest.raises(MissingRecords, match=r"got 2 of 3 \(the first is message 4 of dialogue a"):
        paper_sums(records, tiny_split())


def test_dialogues_without_any_record_are_left_out() -> None:
    records = [it for it in tiny_records() if it.dialogue == "b"]
    sums = paper_sums(records, tiny_split())["all"]
    assert sums.dialogues == ("b",)
    assert scores(sums)["rer_at_10"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"message": "3"}, "message 3 of dialogue a must be a recommender's in the split test"),
        ({"dialogue": "c"}, "message 1 of dialogue c must be a recommender's"),
        ({"text": "see @1"}, r"must be the films of its text in order, \['1'\], got \['1', '1'\]"),
        (
            {"ranking": ("x",)},
            "films of message 1 of dialogue a must be ids of the corpus, got 'x'",
        ),
        (
            {"nll": None},
            "nll and gold_tokens must stand in all records of first messages .* 2 of 3",
        ),
        ({"gold_tokens": None}, "gold_tokens must stand beside nll"),
    ],
)
def test_records_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    first, *others = tiny_records()
    with pytest.raises(ValueError, match=message):
        paper_sums([dataclasses.replace(first, **change), *others], tiny_split())


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 record, got none"):
        paper_sums([], tiny_split())


def slow_scores(records: list[Record], split: ScoredSplit, *, new: bool) -> dict[str, float]:
    """From the definitions, response by response, with every matching tried."""
    record_of = {record.key: record for record in records}
    gold_sum = slot_sum = 0
    matched, pairs, ranked = (dict.fromkeys(CUTOFFS, 0) for _ in range(3))
    for turn in split.turns:
        record = record_of[turn.key]
        out = set(turn.named) if new else set()
        gold = [film for film in turn.gold if film not in out]
        lists = [[film for film in it.ranked if film not in out] for it in record.slots]
        ranking = [film for film in record.ranking or () if film not in out]
        gold_sum += len(gold)
        slot_sum += len(lists)
        for k in CUTOFFS:
            pairs[k] += sum(film in films[:k] for films in lists for film in gold)
            ranked[k] += sum(film in ranking[:k] for film in gold)
            size = min(len(lists), len(gold))
            matched[k] += max(
                sum(film in films[:k] for films, film in zip(some, order, strict=True))
                for some in itertools.combinations(lists, size)
                for order in itertools.permutations(gold, size)
            )
    found: dict[str, float] = {}
    for k in CUTOFFS:
        recall, precision = matched[k] / gold_sum, matched[k] / slot_sum
        found[f"rer_at_{k}"], found[f"prr_at_{k}"] = recall, precision
        both = recall + precision
        found[f"f1_at_{k}"] = 2 * recall * precision / both if both else 0.0
        found[f"conventional_rer_at_{k}"] = pairs[k] / gold_sum
        found[f"recall_at_{k}"] = ranked[k] / gold_sum
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("variant", ["all", "new"])
def test_scores_are_those_of_the_definitions(seed: int, variant: str) -> None:
    rng = np.random.default_rng(seed)
    films = FILMS[:14]
    split = random_split(rng, films, 20)
    records = random_answers(rng, split, films, depth=12)
    wanted = slow_scores(records, split, new=variant == "new")
    found = scores(paper_sums(records, split)[variant])
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
