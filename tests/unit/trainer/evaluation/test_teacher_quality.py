from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.evaluation_fakes import (
    NUM_ITEMS,
    write_classifier,
    write_dialogue_teacher,
    write_recommender,
    write_tiny_data,
)
from trainer.data.chains import longest_first
from trainer.data.model_input import reads_dialogues
from trainer.data.prepared import PreparedData
from trainer.evaluation.loaded_model import load_model
from trainer.evaluation.ranking import gold_ranks, random_recalls, recalls
from trainer.evaluation.teacher_quality import (
    GoldSamples,
    baselines,
    calibration,
    gold_samples,
    item_mass,
    mentioned_items,
    ranking_views,
    recommender_scores,
    report_teachers,
)
from trainer.evaluation.teachers import main
from trainer.models.frozen_recommender import (
    Bags,
    load_recommender,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def samples(data: PreparedData) -> GoldSamples:
    return gold_samples(data.examples("test"), data)


def test_gold_samples_are_the_gold_movies_and_tell_the_new_ones(
    samples: GoldSamples, data: PreparedData
) -> None:
    assert samples.gold_S.tolist() == [4, 3, 9, 70, 9, 9]
    # Example 2's context names items 3 and 4, in this order; its gold is 3 and 9.
    assert samples.is_new_S.tolist() == [True, False, True, True, True, True]
    assert samples.recency_SI[1].nonzero().flatten().tolist() == [3, 4]
    assert samples.recency_SI[1, [3, 4]].tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="must mention a movie in a response"):
        gold_samples(data.examples("test")[:1], data)


def test_ranking_views_equal_a_loop_over_samples(samples: GoldSamples) -> None:
    torch.manual_seed(0)
    scores_SI = torch.randn(6, NUM_ITEMS)
    views = ranking_views(scores_SI, samples)
    for k in (1, 10, 50):
        hits, new_hits, num_new = 0, 0, 0
        for row in range(6):
            gold = int(samples.gold_S[row])
            order = sorted(range(NUM_ITEMS), key=lambda i, s=scores_SI[row]: -float(s[i]))
            hits += gold in order[:k]
            named = set(samples.is_mentioned_SI[row].nonzero().flatten().tolist())
            if gold not in named:
                num_new += 1
                new_hits += gold in [item for item in order if item not in named][:k]
        assert views["all_gold"][f"recall_at_{k}"] == pytest.approx(hits / 6)
        assert views["new_items"][f"recall_at_{k}"] == pytest.approx(new_hits / num_new)


def test_mentioned_items_follow_the_order_of_the_context(data: PreparedData) -> None:
    assert mentioned_items(data.examples("test"), data) == [[], [3], [3, 4], [], [7], []]


def test_baselines_know_popularity_recency_and_chance(
    samples: GoldSamples, data: PreparedData
) -> None:
    found = baselines(samples, data.examples("train"))
    # Item 9 is named three times in train responses: first for three of the six samples.
    assert found["popularity"]["all_gold"]["recall_at_1"] == pytest.approx(0.5)
    # Only sample 1's gold was named before, and not last.
    assert found["last mentioned"]["all_gold"]["recall_at_1"] == 0.0
    assert found["last mentioned"]["all_gold"]["recall_at_10"] == pytest.approx(1 / 6)
    assert found["last mentioned"]["new_items"]["recall_at_10"] == 0.0
    assert found["random"]["all_gold"]["recall_at_10"] == pytest.approx(10 / NUM_ITEMS)


def test_recommender_scores_equal_the_model_asked_one_by_one(
    tmp_path: Path, samples: GoldSamples, data: PreparedData
) -> None:
    folder = write_recommender(tmp_path, data, seed=0)
    scores = recommender_scores(folder, samples, data)
    recommender, _ = load_recommender(folder)
    rows = [
        recommender(Bags.of([e.context_entities]), Bags.of([e.context_words]))[0]
        for e in samples.examples
    ]
    loss = -sum(float(row[gold]) for row, gold in zip(rows, samples.gold_S, strict=True)) / 6
    assert scores["cross_entropy"] == pytest.approx(loss, rel=1e-5)
    assert scores["all_gold"] == ranking_views(torch.stack(rows), samples)["all_gold"]


def test_item_mass_equals_a_whole_softmax_position_by_position(
    tmp_path: Path, data: PreparedData
) -> None:
    write_dialogue_teacher(tmp_path, data.vocabulary, seed=4)
    loaded = load_model(tmp_path)
    examples = data.examples("test")
    found = item_mass(loaded, examples)
    masses, nll = [], 0.0
    vocabulary = data.vocabulary
    for example in longest_first(examples, in_chains=reads_dialogues(loaded.limits)):
        ids = np.concatenate([example.context_ids, example.response_ids])
        with torch.no_grad():
            logits = loaded.model.module(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
        probs = logits.double().softmax(-1)
        for step, token in enumerate(example.response_ids):
            row = probs[len(example.context_ids) - 1 + step]
            masses.append(float(row[vocabulary.first_item_id : vocabulary.rec_id].sum()))
            nll -= math.log(float(row[token]))
    np.testing.assert_allclose(found.mass_P, masses, atol=1e-5)
    assert found.nll_sum == pytest.approx(nll, rel=1e-5)
    assert int(found.is_item_P.sum()) == 4


def test_calibration_of_a_hand_made_case() -> None:
    mass = np.array([0.05, 0.05, 0.95, 1.0])
    rows = calibration(mass, np.array([False, True, True, True]))
    assert [row["count"] for row in rows] == [2, 2]
    assert rows[0]["share_of_items"] == 0.5
    assert rows[1]["mean_mass"] == pytest.approx(0.975)


def test_gold_ranks_and_recalls_of_ties_and_of_nothing() -> None:
    ranks = gold_ranks(torch.zeros(1, 101), torch.tensor([3]))
    assert ranks.tolist() == [50.0]
    assert recalls(ranks)["recall_at_50"] == 0.0
    assert recalls(torch.empty(0))["recall_at_1"] == 0.0
    assert random_recalls(torch.tensor([5, 20]))["recall_at_10"] == pytest.approx(0.75)


def test_report_teachers_writes_tables_plot_and_json(tmp_path: Path, data: PreparedData) -> None:
    seeds = [write_recommender(tmp_path / f"r{seed}", data, seed) for seed in (0, 1)]
    write_dialogue_teacher(tmp_path / "d", data.vocabulary, seed=4)
    arguments = ["--data", str(data.root), "--output", str(tmp_path / "out")]
    arguments += ["--recommendation", *map(str, seeds), "--dialogue", str(tmp_path / "d")]
    classifier = write_classifier(tmp_path / "c", data.vocabulary, seed=5)
    arguments += ["--classifier", str(tmp_path / "c")]
    main(arguments)
    content = json.loads((tmp_path / "out" / "teachers.json").read_text())
    assert set(content["recommendation"]) == {str(seed) for seed in seeds}
    text = (tmp_path / "out" / "teachers.md").read_text()
    assert "| recommendation teacher (2 seeds) |" in text
    assert "| dialogue teacher | GPT2LMHeadModel (1 seeds) |" in text
    assert "| item mass at item steps |" in text
    assert (tmp_path / "out" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert "| classifier (1 seeds) |" in text
    # The twin: each response of test asked alone, and most of train's responses name a film.
    said = [bool(classifier.predict([e.context_ids])[0]) for e in data.examples("test")]
    gold = [e.is_recommendation for e in data.examples("test")]
    right = sum(a == b for a, b in zip(said, gold, strict=True))
    (scores,) = content["classifier"]["models"].values()
    assert scores["accuracy"] == pytest.approx(right / len(gold))
    assert content["classifier"]["majority"]["accuracy"] == pytest.approx(sum(gold) / len(gold))
    again = report_teachers(
        data,
        tmp_path / "again",
        split="test",
        recommendation=seeds,
        dialogue=[tmp_path / "d"],
        classifier=[tmp_path / "c"],
    )
    assert json.loads(json.dumps(again)) == content
    with pytest.raises(ValueError, match="a frozen model must be named, got none"):
        report_teachers(data, tmp_path, split="test", recommendation=[], dialogue=[], classifier=[])
