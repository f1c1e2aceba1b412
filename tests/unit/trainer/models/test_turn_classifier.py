from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, tensor

from trainer.config.pretrain import ClassifierConfig
from trainer.data.prepared import load_prepared
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.turns import turn_scores
from trainer.models.frozen_recommender import load_recommender
from trainer.models.kg_transformer import sinusoids
from trainer.models.turn_classifier import ClassifierShape, TurnClassifier, load_classifier
from trainer.pretrain.classifier import (
    fit_classifier,
    shuffled_batches,
)


def small_classifier(dropout: float = 0.0) -> TurnClassifier:
    torch.manual_seed(0)
    shape = ClassifierShape(vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, max_tokens=8)
    return TurnClassifier(shape, dropout=dropout)


@pytest.mark.parametrize("training", [True, False])
def test_classifier_with_changed_pads_gives_the_same_bits(training: bool) -> None:
    classifier = small_classifier().train(training)
    lengths = tensor([3, 6, 1])
    first = tensor([[5, 6, 7, 0, 0, 0], [1, 2, 3, 4, 5, 6], [9, 0, 0, 0, 0, 0]])
    second = tensor([[5, 6, 7, 49, 1, 2], [1, 2, 3, 4, 5, 6], [9, 8, 8, 8, 8, 49]])
    assert torch.equal(classifier(first, lengths), classifier(second, lengths))


def test_classifier_with_more_padding_gives_the_same_logits() -> None:
    classifier = small_classifier().eval()
    narrow = classifier(tensor([[5, 6, 7]]), tensor([3]))
    wide = classifier(tensor([[5, 6, 7, 0, 0, 0, 0, 0]]), tensor([3]))
    torch.testing.assert_close(narrow, wide)


def torch_layer(layer: Any, size: int) -> nn.TransformerEncoderLayer:
    """The same layer as torch has it: post-LN, ReLU, as wide inside as outside."""
    twin = nn.TransformerEncoderLayer(size, 2, dim_feedforward=size, dropout=0, batch_first=True)
    attention, fed = layer.attention, layer.feed_forward
    three = (attention.query, attention.key, attention.value)
    names = {
        "self_attn.in_proj_weight": torch.cat([linear.weight for linear in three]),
        "self_attn.in_proj_bias": torch.cat([linear.bias for linear in three]),
        "self_attn.out_proj.weight": attention.output.weight,
        "self_attn.out_proj.bias": attention.output.bias,
        "linear1.weight": fed.inner.weight,
        "linear1.bias": fed.inner.bias,
        "linear2.weight": fed.outer.weight,
        "linear2.bias": fed.outer.bias,
        "norm1.weight": layer.attended.norm.weight,
        "norm1.bias": layer.attended.norm.bias,
        "norm2.weight": layer.fed.norm.weight,
        "norm2.bias": layer.fed.norm.bias,
    }
    twin.load_state_dict(names)
    return twin.eval()


def test_classifier_equals_torch_s_layers_run_without_padding() -> None:
    classifier = small_classifier().eval()
    places = sinusoids(4, 16)[tensor([3, 2, 1, 0])]
    states = (classifier.tokens(tensor([5, 6, 7, 8])) * 4.0 + places)[None]
    for layer in classifier.layers:
        states = torch_layer(layer, 16)(states)
    expected = classifier.head(states.mean(1))
    padded = tensor([[5, 6, 7, 8, 0, 0]])
    torch.testing.assert_close(classifier(padded, tensor([4])), expected)


def test_predict_reads_the_last_tokens_and_keeps_the_order() -> None:
    classifier = small_classifier().train()
    rng = np.random.default_rng(0)
    contexts = [rng.integers(0, 50, size=n, dtype=np.int32) for n in rng.integers(1, 20, size=150)]
    found = classifier.predict(contexts)
    assert found.dtype == np.bool_
    assert not classifier.training
    one_by_one = []
    for context in contexts:
        last = torch.from_numpy(context[-8:].astype(np.int64))
        logits = classifier(last[None], tensor([len(last)]))[0]
        one_by_one.append(bool(logits[1] > logits[0]))
    assert found.tolist() == one_by_one
    assert any(one_by_one) and not all(one_by_one)


def test_predict_with_nothing_to_predict_gives_nothing() -> None:
    assert small_classifier().predict([]).tolist() == []


def test_collate_with_an_empty_context_is_an_error() -> None:
    with pytest.raises(ValueError, match="each context must have at least one token"):
        small_classifier().predict([np.array([1]), np.array([], dtype=np.int32)])


def test_turn_scores_match_hand_values() -> None:
    # 1 hit, 2 said, 2 gold: F1 = 2 * 1 / 4.
    scores = turn_scores(
        np.array([True, True, False, False, False]), np.array([True, False, True, False, False])
    )
    assert scores == pytest.approx({"accuracy": 0.6, "f1": 0.5})
    nothing = np.array([False])
    assert turn_scores(nothing, nothing)["f1"] == 0.0


def test_shuffled_batches_hold_every_example_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, size=1003)
    batches = shuffled_batches(lengths, 32, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert max(len(batch) for batch in batches) == 32
    again = shuffled_batches(lengths, 32, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    spread = np.mean([lengths[batch].max() - lengths[batch].min() for batch in batches])
    assert spread < 0.3 * (lengths.max() - lengths.min())


def small_config(prepared_dir: Path) -> ClassifierConfig:
    return ClassifierConfig(
        data=str(prepared_dir),
        hidden_size=32,
        num_layers=1,
        max_tokens=24,
        epochs=4,
        batch_size=16,
        learning_rate=3e-3,
        warmup_steps=5,
    )


@pytest.fixture(scope="module")
def classifier_dir(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    fit_classifier(small_config(prepared_dir), folder)
    return folder


def test_fit_classifier_beats_the_majority_and_exports_what_it_measured(
    prepared_dir: Path, classifier_dir: Path
) -> None:
    fit = json.loads((classifier_dir / "fit.json").read_text())
    assert fit["metrics"]["test"]["accuracy"] > fit["majority"]["test"]["accuracy"] + 0.1
    data = load_prepared(prepared_dir)
    classifier, card = load_classifier(classifier_dir)
    assert (card.kind, card.max_tokens) == ("classifier", 24)
    assert card.vocabulary_digest == Vocabulary.load(classifier_dir).digest
    examples = data.examples("test")
    found = classifier.predict([example.context_ids for example in examples])
    gold = np.array([example.is_recommendation for example in examples])
    assert (found == gold).mean() == pytest.approx(fit["metrics"]["test"]["accuracy"], abs=1e-6)


def test_fit_classifier_with_the_same_seed_gives_the_same_weights(
    prepared_dir: Path, classifier_dir: Path, tmp_path: Path
) -> None:
    fit_classifier(small_config(prepared_dir), tmp_path)
    digests = [load_classifier(folder)[1].weights_digest for folder in (classifier_dir, tmp_path)]
    assert digests[0] == digests[1]


def test_load_classifier_refuses_other_kinds_and_shapes(
    classifier_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="must hold a recommendation model, got a classifier"):
        load_recommender(classifier_dir)
    copy = Path(shutil.copytree(classifier_dir, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    assert config["model_type"] == "conkd-classifier"
    config["hidden_size"] *= 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="as its config says"):
        load_classifier(copy)
    del config["hidden_size"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"must give .*hidden_size"):
        load_classifier(copy)


def test_classifier_config_refuses_values_out_of_range(prepared_dir: Path) -> None:
    with pytest.raises(ValueError, match="hidden_size must be divisible by 3 heads, got 32"):
        dataclasses.replace(small_config(prepared_dir), num_heads=3)
    with pytest.raises(ValueError, match="epochs must be above 0, got 0"):
        dataclasses.replace(small_config(prepared_dir), epochs=0)
