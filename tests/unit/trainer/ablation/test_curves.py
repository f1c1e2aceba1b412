"""Figures show the scores of the arms that there are, where they declare a setting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from trainer.ablation.arm_results import ALL, ArmResults
from trainer.ablation.arms import TABLES
from trainer.ablation.curves import ALONG, curves, traded
from trainer.ablation.figures import along_figure, draw_figures, price_figure
from trainer.scoring.sums import DialogueSums

PNG_MAGIC = b"\x89PNG"
OF_TABLE = {along.table: along for along in ALONG}


def arm(name: str, hits: float, nll: float = 4.0, distinct: float = 2.0) -> ArmResults:
    """Two seeds over three dialogues of two gold films and two named ones each."""
    counts = {
        **{"gold": 2.0, "slots": 2.0, "matched_10": hits, "nll": nll, "gold_tokens": 2.0},
        **{"ngrams_4": 4.0, "distinct_4": distinct, "ngrams_1": 10.0, "responses": 1.0},
        **{"kl_dialogue": 1.5 * hits, "positions": 2.0},
    }
    sums = DialogueSums(
        dialogues=("a", "b", "c"),
        counts={key: np.full(3, value) for key, value in counts.items()},
    )
    return ArmResults(name=name, seeds=(0, 1), sums={ALL: (sums, sums)})


def points(name: str, results: list[ArmResults], metric: str) -> Mapping[str, list[tuple]]:
    found = curves(OF_TABLE[name], results, metric)
    return {line.name: [(it.x, it.mean.mean) for it in line.points] for line in found}


def test_a_line_has_the_arms_that_there_are_along_their_setting() -> None:
    results = [arm("bucket_64", 1.0), arm("drop_16", 0.5), arm("bucket_16", 2.0)]
    # F1@10: 2 hits / (gold + slots).
    assert points("tail", results, "f1_at_10") == {
        "bucket": [(16.0, 1.0), (64.0, 0.5)],
        "drop": [(16.0, 0.25)],
    }
    assert points("tail", results, "kl_dialogue")["drop"] == [(16.0, 0.375)]


def test_students_with_and_without_teachers_have_lines_of_their_own() -> None:
    results = [arm("vanilla_1_8", 0.5), arm("plus_D_R_1_8", 1.0), arm("plus_D_R_all", 1.5)]
    assert points("size", results, "f1_at_10") == {
        "undistilled": [(0.125, 0.25)],
        "distilled": [(0.125, 0.5), (1.0, 0.75)],
    }


def test_a_gamma_that_falls_stands_apart_from_constant_ones() -> None:
    results = [arm("gamma_0_8", 0.5), arm("gamma_0_8_to_0_2", 1.0), arm("gamma_0_0", 0.25)]
    assert points("gamma", results, "f1_at_10") == {
        "constant": [(0.0, 0.125), (0.8, 0.25)],
        "falling to .2": [(0.8, 0.5)],
    }


def test_an_arm_without_the_setting_or_the_score_is_left_out() -> None:
    results = [arm("vanilla", 0.5), arm("temperature_2_0", 1.0)]
    assert points("temperature", results, "f1_at_10") == {"distilled": [(2.0, 0.5)]}
    assert points("temperature", results, "recall_at_10") == {}


def test_gains_stand_over_prices_with_the_value_that_an_arm_differs_in() -> None:
    results = [
        arm("vanilla_greedy", 0.5, distinct=4.0),
        arm("plus_D_R_greedy", 1.0, distinct=1.0),
        arm("plus_D_R_nucleus_0_9", 0.75, distinct=3.0),
        arm("dialogue_teacher", 0.25, distinct=2.0),
    ]
    lines = traded(TABLES["decoding"], results, "dist_4", "f1_at_10")
    drawn = {line.name: [(it.x, it.mean.mean, it.label) for it in line.points] for line in lines}
    assert drawn == {
        "decoding, undistilled": [(1.0, 0.25, "greedy")],
        "decoding, distilled": [(0.25, 0.5, "greedy"), (0.75, 0.375, "0.9")],
        "decoding, dialogue teacher": [(0.5, 0.125, "")],
    }


def test_a_schedule_is_labelled_by_its_ends() -> None:
    results = [arm("gamma_0_8_to_0_2", 1.0)]
    (line,) = traded(TABLES["gamma"], results, "dist_4", "f1_at_10")
    assert [it.label for it in line.points] == ["0.8 to 0.2"]


def test_figures_have_a_panel_for_each_metric_and_intervals() -> None:
    figure = along_figure(OF_TABLE["tail"], [arm("bucket_64", 1.0), arm("bucket_16", 2.0)])
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["KL to the dialogue teacher, nats", "Perplexity", "F1@10"]
    (line, *_) = figure.axes[2].get_lines()
    assert np.asarray(line.get_xdata()).tolist() == [16, 64]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([1.0, 0.5])
    assert len(price_figure({"gamma": [arm("gamma_0_4", 1.0)]}).axes) == 3


def test_only_tables_with_cells_are_drawn(tmp_path: Path) -> None:
    results = {"paper": [arm("vanilla", 0.5)], "gamma": [arm("gamma_0_4", 1.0)]}
    drawn = draw_figures(results, tmp_path)
    assert drawn == {"paper": [], "gamma": ["ablation-gamma.png", "ablation-price.png"]}
    assert all((tmp_path / it).read_bytes().startswith(PNG_MAGIC) for it in drawn["gamma"])
