from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.scoring.metrics import METRICS, ratio, scores
from trainer.scoring.sums import DialogueSums


def sums_of(**counts: float) -> DialogueSums:
    return DialogueSums(
        dialogues=("a",), counts={name: np.array([it], np.float64) for name, it in counts.items()}
    )


def test_names_and_titles_are_distinct() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.title for metric in METRICS}) == len(METRICS)


def test_a_metric_without_its_counts_is_left_out() -> None:
    assert scores(sums_of(gold=2.0)) == {"gold": 2.0}


def test_numbers_of_things_are_whole() -> None:
    found = scores(sums_of(gold=2.0, instances=1.0, matched_10=1.0, slots=2.0))
    whole = {name for name, value in found.items() if isinstance(value, int)}
    assert whole == {"gold", "instances", "slots"}


def test_a_metric_without_a_denominator_is_none() -> None:
    found = scores(sums_of(matched_10=0.0, gold=0.0, slots=0.0))
    assert (found["rer_at_10"], found["prr_at_10"], found["f1_at_10"]) == (None, None, None)
    assert scores(sums_of(nll=0.0, gold_tokens=0.0))["perplexity"] is None


def test_f1_is_the_harmonic_mean_of_recall_and_precision() -> None:
    found = scores(sums_of(matched_10=3.0, gold=5.0, slots=8.0))
    assert found["f1_at_10"] == pytest.approx(2 / (1 / (3 / 5) + 1 / (3 / 8)))


def test_perplexity_is_exp_of_mean_nll_and_none_past_float_range() -> None:
    assert scores(sums_of(nll=3 * math.log(8.0), gold_tokens=3.0))["perplexity"] == (
        pytest.approx(8.0)
    )
    assert scores(sums_of(nll=1e6, gold_tokens=1.0))["perplexity"] is None


def test_bits_per_character_is_nll_in_bits_over_characters() -> None:
    found = scores(sums_of(nll=8 * math.log(2.0), gold_characters=4.0))
    assert found["bits_per_character"] == pytest.approx(2.0)


def test_ratio_is_nan_without_a_denominator() -> None:
    found = ratio(np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0]))
    assert found[0] == 0.5
    assert np.isnan(found[1:]).all()
