"""Score one trained model on one split: text, recommendations and likelihood.

P response positions of a batch, V vocabulary, I items.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.common.errors import InputError
from trainer.common.progress import progress_bar
from trainer.data.chains import longest_first
from trainer.data.examples import Example
from trainer.data.loader import to_student_input
from trainer.data.model_input import reads_dialogues
from trainer.data.prepared import PreparedData
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation import metrics
from trainer.evaluation.actions import ActionChooser, Actions
from trainer.evaluation.generate import GenerateConfig, generate
from trainer.evaluation.loaded_model import LoadedModel, check_knows, load_model
from trainer.evaluation.metrics import GeneratedResponse
from trainer.evaluation.views import RecommendationViews, recommendation_views

DISTINCT_N = (1, 2, 3, 4)
POSITION_CHUNK = 256
"""Positions whose logits are held at once: 59 MB at 57,184 tokens."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated, and how."""

    split: str = "test"
    classifier: str | None = None
    """Folder of a turn classifier, "oracle" for the gold action, "student" for the model's own,
    None: the classifier in student.json, or else the model itself."""
    limit: int | None = None
    """Only the first examples; None: all."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, got {self.limit}.")


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Sums of the gold responses under the model."""

    nll_sum: float
    """Nats."""
    num_tokens: int
    """With each end of text."""
    num_characters: int
    """Of the decoded gold responses, titles written out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResult:
    """All scores of one model on one split; docs/evaluation.md has the definitions."""

    checkpoint: str
    split: str
    vocabulary_digest: str
    recommendations: RecommendationViews
    rec_ratio: float
    gold_rec_ratio: float
    likelihood: Likelihood
    distinct: dict[int, float]
    """n -> corpus DIST-n."""
    conventional_distinct: dict[int, float]
    """n -> distinct n-grams per response."""
    actions: Actions
    responses: tuple[GeneratedResponse, ...]
    """In the order of the split; not in to_dict."""
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the responses, for JSON; headline scores flat."""
        headline = self.recommendations.to_dict()
        for n, value in self.conventional_distinct.items():
            headline["conventional"][f"dist_{n}"] = value
        likelihood = self.likelihood
        bits = metrics.bits_per_character(likelihood.nll_sum, likelihood.num_characters)
        return {
            "checkpoint": self.checkpoint,
            "split": self.split,
            "vocabulary_digest": self.vocabulary_digest,
            "num_responses": len(self.responses),
            "num_generated_tokens": sum(len(r.token_ids) for r in self.responses),
            **headline,
            "rec_ratio": self.rec_ratio,
            "gold_rec_ratio": self.gold_rec_ratio,
            "perplexity": metrics.perplexity(likelihood.nll_sum, likelihood.num_tokens),
            "bits_per_character": bits,
            "nll_sum": likelihood.nll_sum,
            "num_gold_tokens": likelihood.num_tokens,
            **{f"dist_{n}": value for n, value in self.distinct.items()},
            "actions": self.actions.to_dict(),
            "seconds": self.seconds,
        }


def evaluate_config(arguments: argparse.Namespace) -> EvaluateConfig:
    """The config that these options ask for."""
    return EvaluateConfig(
        split=arguments.split,
        classifier=arguments.classifier,
        limit=arguments.limit,
        generate=GenerateConfig(batch_size=arguments.batch_size),
    )


def evaluate_model(model_dir: Path, data: PreparedData, config: EvaluateConfig) -> EvaluationResult:
    """Generate and score every response of a split; deterministic but for `seconds`.

    Args:
        model_dir: a run directory, an exported student or a dialogue teacher.
        data: the prepared folder that it was trained on.
        config: split, action token and limits.

    Raises:
        FileNotFoundError: if the folder holds no such model.
        InputError: if its vocabulary is not the data's (with both digests), or its action token has
            no source.
    """
    loaded = load_model(model_dir)
    check_knows(loaded, data)
    examples = data.examples(config.split)[: config.limit]
    started = time.perf_counter()
    actions = ActionChooser(loaded, config.classifier)(examples)
    chosen = time.perf_counter()
    prompts = [
        loaded.prompt(example, recommends=bool(recommends))
        for example, recommends in zip(examples, actions.recommends_T, strict=True)
    ]
    responses = generate(
        loaded.model, loaded.vocabulary, prompts, config.generate, title="generate"
    )
    generated = time.perf_counter()
    likelihood = gold_likelihood(loaded, examples)
    scored = time.perf_counter()
    seconds = {
        "actions": chosen - started,
        "generate": generated - chosen,
        "perplexity": scored - generated,
    }
    return _score(model_dir, data, config, examples, responses, likelihood, actions, seconds)


def gold_likelihood(loaded: LoadedModel, examples: Sequence[Example]) -> Likelihood:
    """NLL of the gold responses, end of text included, the gold action token given.

    Never holds more than [POSITION_CHUNK, V] logits; independent of padding.
    """
    model, vocabulary = loaded.model, loaded.vocabulary
    weight_VD = model.head.weight.detach()
    limits = loaded.limits
    ordered = longest_first(examples, in_chains=reads_dialogues(limits))
    nll_sum, num_tokens, batch_size = 0.0, 0, 32
    with torch.inference_mode(), progress_bar() as bar:
        task = bar.add_task("perplexity", total=len(examples))
        for start in range(0, len(ordered), batch_size):
            batch = tuple(ordered[start : start + batch_size])
            inputs = to_student_input(batch, vocabulary, limits)
            of_response = inputs.positions.of_response
            hidden_PD = of_response(model.response_states(inputs.model.to(model.device)))
            labels_P = of_response(inputs.positions.labels_P).to(model.device)
            nll_sum += _nll_sum(hidden_PD, weight_VD, labels_P)
            num_tokens += len(labels_P)
            bar.advance(task, len(batch))
    return Likelihood(
        nll_sum=nll_sum,
        num_tokens=num_tokens,
        num_characters=sum(len(gold_text(example, vocabulary)) for example in examples),
    )


def gold_text(example: Example, vocabulary: Vocabulary) -> str:
    """The gold response as people read it, cut at the response limit."""
    return vocabulary.decode(example.response_ids.tolist()).strip()


def _nll_sum(hidden_PD: torch.Tensor, weight_VD: torch.Tensor, labels_P: torch.Tensor) -> float:
    total = 0.0
    for start in range(0, len(labels_P), POSITION_CHUNK):
        chunk = slice(start, start + POSITION_CHUNK)
        logits_CV = hidden_PD[chunk] @ weight_VD.T
        gold_C = logits_CV.gather(1, labels_P[chunk, None]).squeeze(1)
        total += float((logits_CV.logsumexp(-1) - gold_C).double().sum())
    return total


def _score(
    model_dir: Path,
    data: PreparedData,
    config: EvaluateConfig,
    examples: Sequence[Example],
    responses: Sequence[GeneratedResponse],
    likelihood: Likelihood,
    actions: Actions,
    seconds: dict[str, float],
) -> EvaluationResult:
    vocabulary = data.vocabulary
    slots = [response.item_slots for response in responses]
    words = [
        metrics.response_words(r.token_ids, vocabulary.is_item, vocabulary.decode)
        for r in responses
    ]
    return EvaluationResult(
        checkpoint=str(model_dir),
        split=config.split,
        vocabulary_digest=vocabulary.digest,
        recommendations=recommendation_views(slots, examples, data),
        rec_ratio=metrics.recommendation_ratio(slots),
        gold_rec_ratio=float(np.mean([e.is_recommendation for e in examples])),
        likelihood=likelihood,
        distinct={n: metrics.distinct_n(words, n) for n in DISTINCT_N},
        conventional_distinct={n: metrics.conventional_distinct_n(words, n) for n in DISTINCT_N},
        actions=actions,
        responses=tuple(responses),
        seconds=seconds,
    )
