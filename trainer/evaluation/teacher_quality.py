"""How good frozen teachers are on one split, before distillation: teachers.md and teachers.json.

Several folders of a kind are taken for seeds of one recipe: scores are means with their range.

S samples (one per gold movie of a response), I items, P response positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.common.atomic import write_json, write_text
from trainer.common.errors import InputError
from trainer.common.progress import progress_bar
from trainer.data.bags import Bags
from trainer.data.chains import longest_first
from trainer.data.examples import Example
from trainer.data.loader import to_student_input
from trainer.data.model_input import InputLimits, reads_dialogues, recommendation_input
from trainer.data.prepared import PreparedData
from trainer.evaluation.loaded_model import (
    LoadedModel,
    check_digests,
    check_knows,
    check_vocabulary,
    load_model,
)
from trainer.evaluation.ranking import gold_ranks, random_recalls, recalls
from trainer.evaluation.teachers_text import to_markdown
from trainer.evaluation.turns import gold_turns, majority_turns, turn_scores
from trainer.models.frozen_recommender import load_recommender
from trainer.models.turn_classifier import load_classifier

BATCH = 32
POSITION_CHUNK = 256
NUM_BINS = 10
Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldSamples:
    """What a recommendation is judged by.

    Attributes:
        examples: of each sample.
        gold_S: int64 [S] item of each.
        is_mentioned_SI: bool [S, I], the items that the context names.
    """

    examples: tuple[Example, ...]
    gold_S: Tensor
    is_mentioned_SI: Tensor
    recency_SI: Tensor
    """float32 [S, I]: 1-based place of an item among the distinct ones named, 0 if it is not."""

    @property
    def is_new_S(self) -> Tensor:
        """Whether the context does not name the gold item."""
        return ~self.is_mentioned_SI.gather(1, self.gold_S[:, None])[:, 0]


def gold_samples(examples: Sequence[Example], data: PreparedData) -> GoldSamples:
    """One sample per gold movie; ValueError if there is none."""
    named = mentioned_items(examples, data)
    pairs = [(i, int(item)) for i, e in enumerate(examples) for item in e.gold_items]
    if not pairs:
        raise InputError("the split must mention a movie in a response, got none. Take another.")
    recency_SI = torch.zeros(len(pairs), data.vocabulary.num_items)
    for row, (index, _) in enumerate(pairs):
        items = torch.tensor(named[index], dtype=torch.int64)
        recency_SI[row, items] = torch.arange(1.0, len(items) + 1)
    return GoldSamples(
        examples=tuple(examples[index] for index, _ in pairs),
        gold_S=torch.tensor([item for _, item in pairs]),
        is_mentioned_SI=recency_SI > 0,
        recency_SI=recency_SI,
    )


def mentioned_items(examples: Sequence[Example], data: PreparedData) -> list[list[int]]:
    """Items that each whole context names, also before its cut, in the order of first mention."""
    item_of = {int(entity): item for item, entity in enumerate(data.graph.item_entities_I)}
    return [
        [item_of[entity] for entity in example.context_entities.tolist() if entity in item_of]
        for example in examples
    ]


def ranking_views(scores_SI: Tensor, samples: GoldSamples) -> dict[str, Scores]:
    """Recalls over all gold, and over new items alone, the context's left out of the ranking."""
    new_S = samples.is_new_S
    others_SI = scores_SI.masked_fill(samples.is_mentioned_SI, -math.inf)
    return {
        "all_gold": dict(recalls(gold_ranks(scores_SI, samples.gold_S))),
        "new_items": dict(recalls(gold_ranks(others_SI[new_S], samples.gold_S[new_S]))),
    }


def baselines(samples: GoldSamples, train: Sequence[Example]) -> dict[str, dict[str, Scores]]:
    """Popularity in train responses, the item named last, and a random order."""
    num_items = samples.recency_SI.shape[1]
    gold = np.concatenate([np.empty(0, np.int64), *(e.gold_items for e in train)])
    counts_I = torch.from_numpy(np.bincount(gold.astype(np.int64), minlength=num_items))
    candidates_S = num_items - samples.is_mentioned_SI.sum(1)
    return {
        "popularity": ranking_views(counts_I.float().expand(len(samples.gold_S), -1), samples),
        "last mentioned": ranking_views(samples.recency_SI, samples),
        "random": {
            "all_gold": dict(random_recalls(torch.full_like(samples.gold_S, num_items))),
            "new_items": dict(random_recalls(candidates_S[samples.is_new_S])),
        },
    }


@torch.inference_mode()
def recommender_scores(folder: Path, samples: GoldSamples, data: PreparedData) -> dict[str, Any]:
    """Recalls of a frozen recommendation teacher, and its mean cross entropy in nats."""
    recommender, card = load_recommender(folder)
    check_digests(folder, card.vocabulary_digest, card.graph_digest, data)
    limits = InputLimits.of(card)
    inputs = [recommendation_input(example, limits) for example in samples.examples]
    log_probs_SI = torch.cat(
        [
            recommender(
                Bags.of([each.entities for each in inputs[i : i + BATCH]]),
                Bags.of([each.words for each in inputs[i : i + BATCH]]),
            )
            for i in range(0, len(inputs), BATCH)
        ]
    )
    gold_S1 = samples.gold_S[:, None]
    loss = -float(log_probs_SI.gather(1, gold_S1).double().mean())
    return {**ranking_views(log_probs_SI, samples), "cross_entropy": loss}


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemMass:
    """A dialogue teacher's item mass at every response position, and what came there.

    Attributes:
        mass_P: float64 [P].
        is_item_P: bool [P].
        nll_sum: of the gold tokens, in nats.
    """

    mass_P: np.ndarray
    is_item_P: np.ndarray
    nll_sum: float

    def to_dict(self) -> dict[str, Any]:
        """Means at item and word steps (paper: .653 and .023), perplexity, calibration."""
        mass_P, is_item_P = self.mass_P, self.is_item_P
        bins = calibration(mass_P, is_item_P)
        gaps = [abs(row["mean_mass"] - row["share_of_items"]) * row["count"] for row in bins]
        return {
            "item_mass_at_item_steps": float(mass_P[is_item_P].mean()),
            "item_mass_at_word_steps": float(mass_P[~is_item_P].mean()),
            "perplexity": math.exp(self.nll_sum / len(mass_P)),
            "calibration_error": sum(gaps) / len(mass_P),
            "calibration": bins,
        }


def calibration(mass_P: np.ndarray, is_item_P: np.ndarray) -> list[dict[str, float]]:
    """Per tenth of item mass: how many steps, their mean mass, and how often an item came."""
    bin_P = np.minimum((mass_P * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "count": int((bin_P == b).sum()),
            "mean_mass": float(mass_P[bin_P == b].mean()),
            "share_of_items": float(is_item_P[bin_P == b].mean()),
        }
        for b in range(NUM_BINS)
        if (bin_P == b).any()
    ]


@torch.inference_mode()
def item_mass(loaded: LoadedModel, examples: Sequence[Example]) -> ItemMass:
    """Next-token distributions at every response position, [POSITION_CHUNK, V] at a time."""
    vocabulary = loaded.vocabulary
    items = slice(vocabulary.first_item_id, vocabulary.rec_id)
    weight_VD = loaded.model.head.weight.cpu()
    limits = loaded.limits
    ordered = longest_first(examples, in_chains=reads_dialogues(limits))
    masses, gold, nll_sum = [], [], 0.0
    with progress_bar() as bar:
        task = bar.add_task("item mass", total=len(ordered))
        for start in range(0, len(ordered), BATCH):
            batch = tuple(ordered[start : start + BATCH])
            inputs = to_student_input(batch, vocabulary, limits)
            of_response = inputs.positions.of_response
            states_PD = loaded.model.response_states(inputs.model.to(loaded.model.device))
            hidden_PD = of_response(states_PD).cpu()
            labels_P = of_response(inputs.positions.labels_P)
            for hidden_CD, labels_C in zip(
                hidden_PD.split(POSITION_CHUNK), labels_P.split(POSITION_CHUNK), strict=True
            ):
                scores_CV = hidden_CD @ weight_VD.T
                if limits.actions is not None:
                    # As it is served: over words and items.
                    scores_CV[:, vocabulary.rec_id :] = -torch.inf
                log_probs_CV = torch.log_softmax(scores_CV, dim=-1)
                masses.append(log_probs_CV[:, items].exp().sum(-1).double().numpy())
                nll_sum -= float(log_probs_CV.gather(1, labels_C[:, None]).double().sum())
            gold.append(of_response(inputs.positions.is_item_P).numpy())
            bar.advance(task, len(batch))
    return ItemMass(mass_P=np.concatenate(masses), is_item_P=np.concatenate(gold), nll_sum=nll_sum)


def classifier_scores(
    folder: Path, examples: Sequence[Example], data: PreparedData
) -> dict[str, float]:
    """Accuracy and F1 of a frozen turn classifier; an oracle has 1 and 1."""
    classifier, card = load_classifier(folder)
    check_vocabulary(folder, card.vocabulary_digest, data.vocabulary.digest)
    recommends_T = classifier.predict([example.context_ids for example in examples])
    return turn_scores(recommends_T, gold_turns(examples))


def report_teachers(
    data: PreparedData,
    output: Path,
    *,
    split: str,
    recommendation: Sequence[Path],
    dialogue: Sequence[Path],
    classifier: Sequence[Path],
) -> dict[str, Any]:
    """Score all folders, write teachers.json, teachers.md and calibration.png; gives the JSON.

    Raises:
        FileNotFoundError: if a folder is no teacher.
        InputError: if a teacher has another vocabulary than the data, or there is no teacher.
    """
    if not (recommendation or dialogue or classifier):
        raise InputError(
            "a frozen model must be named, got none. Give --recommendation, --dialogue or "
            "--classifier."
        )
    examples = data.examples(split)
    samples = gold_samples(examples, data)
    content: dict[str, Any] = {"split": split, "num_samples": len(samples.gold_S)}
    content["vocabulary_digest"] = data.vocabulary.digest
    content["graphs_digest"] = data.graphs_digest
    content["num_new"] = int(samples.is_new_S.sum())
    content["baselines"] = baselines(samples, data.examples("train"))
    content["recommendation"] = {
        str(folder): recommender_scores(folder, samples, data) for folder in recommendation
    }
    masses: dict[str, ItemMass] = {}
    architectures: dict[str, str] = {}
    for folder in dialogue:
        loaded = load_model(folder)
        check_knows(loaded, data)
        masses[str(folder)] = item_mass(loaded, examples)
        architectures[str(folder)] = type(loaded.model.module).__name__
    content["dialogue"] = {
        name: {"architecture": architectures[name], **mass.to_dict()}
        for name, mass in masses.items()
    }
    if masses:
        # Imported here: matplotlib is an extra that only plots need.
        from trainer.evaluation.plots import draw_calibration

        draw_calibration(content["dialogue"], output / "calibration.png")
    majority_T = majority_turns(data.examples("train"), len(examples))
    content["classifier"] = {
        "models": {str(folder): classifier_scores(folder, examples, data) for folder in classifier},
        "majority": turn_scores(majority_T, gold_turns(examples)),
    }
    write_json(output / "teachers.json", content)
    write_text(output / "teachers.md", to_markdown(content))
    return content
