"""Every metric, declared once: a function of counts that are summed over dialogues.

B resamples: the totals of a count are float64 [B]. docs/evaluation.md defines counts and metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from trainer.scoring.sums import DialogueSums

CUTOFFS: tuple[int, ...] = (1, 10, 50)
"""The k of all metrics @k."""
DISTINCT_N: tuple[int, ...] = (1, 2, 3, 4)
Totals = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of one system on one set of dialogues."""

    name: str
    title: str
    counts: tuple[str, ...]
    """It is computed where all of them are known."""
    of: Callable[[Totals], np.ndarray]
    """Totals -> float64 [B]; NaN where a denominator is 0."""
    is_count: bool = False
    """A number of things, which has neither interval nor test."""
    lower_is_better: bool = False

    def is_known(self, counts: Container[str]) -> bool:
        """Whether all counts that it needs are among these."""
        return all(name in counts for name in self.counts)


def scores(sums: DialogueSums) -> dict[str, float | None]:
    """Each metric whose counts are known, numbers of things as int; None: its denominator is 0."""
    totals = {name: counts_N.sum(keepdims=True) for name, counts_N in sums.counts.items()}
    return {
        metric.name: _score(metric, float(metric.of(totals)[0]))
        for metric in METRICS
        if metric.is_known(totals)
    }


def _score(metric: Metric, value: float) -> float | None:
    return int(value) if metric.is_count else as_number(value)


def list_depth(num_films: int, num_named: int) -> int:
    """Films that a list must hold so that the last cutoff is filled without those named before."""
    return min(num_films, max(CUTOFFS) + num_named)


def as_number(value: float) -> float | None:
    """None for what is no finite number."""
    return value if math.isfinite(value) else None


def ratio(numerators_B: np.ndarray, denominators_B: np.ndarray) -> np.ndarray:
    """Quotients, NaN where the denominator is 0."""
    undefined_B = np.full(np.broadcast(numerators_B, denominators_B).shape, np.nan)
    return np.divide(numerators_B, denominators_B, out=undefined_B, where=denominators_B != 0)


def _ratio(
    name: str,
    title: str,
    numerator: str,
    *denominators: str,
    factor: float = 1.0,
    lower_is_better: bool = False,
) -> Metric:
    """A count over the sum of others, times a factor."""
    return Metric(
        name=name,
        title=title,
        counts=(numerator, *denominators),
        of=lambda totals: ratio(
            factor * totals[numerator], np.sum([totals[it] for it in denominators], axis=0)
        ),
        lower_is_better=lower_is_better,
    )


def _count(name: str, title: str) -> Metric:
    return Metric(name=name, title=title, counts=(name,), of=lambda it: it[name], is_count=True)


def _recall_precision_f1(
    prefix: str, note: str, hits: str, gold: str = "gold", slots: str = "slots"
) -> Iterator[Metric]:
    """ReR, PrR and F1 at each cutoff; F1, the harmonic mean, is 2 hits / (gold + slots)."""
    for k in CUTOFFS:
        yield _ratio(f"{prefix}f1_at_{k}", f"F1@{k}{note}", f"{hits}_{k}", gold, slots, factor=2.0)
        yield _ratio(f"{prefix}rer_at_{k}", f"ReR@{k}{note}", f"{hits}_{k}", gold)
        yield _ratio(f"{prefix}prr_at_{k}", f"PrR@{k}{note}", f"{hits}_{k}", slots)


def _decrease(k: int) -> Metric:
    """By how much the response finds less than the list that ranks for it (Table 1)."""
    found, ranked = f"matched_{k}", f"ranking_hits_{k}"
    return Metric(
        name=f"decrease_at_{k}",
        title=f"Decrease from R@{k} to ReR@{k}",
        counts=(found, ranked, "gold"),
        of=lambda totals: 1.0 - ratio(totals[found], totals[ranked]),
        lower_is_better=True,
    )


def _divergence() -> Iterator[Metric]:
    """A student beside the dense dialogue teacher, at all steps and at those of a gold film."""
    titles = {
        "kl_dialogue": "KL to the dialogue teacher, nats",
        "teacher_agreed": "Same first token as the dialogue teacher",
        "teacher_entropy": "Entropy of the dialogue teacher, nats",
        "student_entropy": "Entropy of the student, nats",
        "teacher_item_mass": "Mass on films, of the dialogue teacher",
        "student_item_mass": "Mass on films, of the student",
    }
    for suffix, steps, positions in (
        ("", "", "positions"),
        ("_item", " at films", "item_positions"),
    ):
        for name, title in titles.items():
            yield _ratio(
                f"{name}{suffix}",
                f"{title}{steps}",
                f"{name}{suffix}",
                positions,
                lower_is_better=name == "kl_dialogue",
            )


def _perplexity(totals: Totals) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(ratio(totals["nll"], totals["gold_tokens"]))


METRICS: tuple[Metric, ...] = (
    _count("dialogues", "Dialogues with an instance"),
    _count("instances", "Instances"),
    _count("responses", "Responses"),
    _count("gold", "Gold films"),
    _count("slots", "Films named"),
    *_recall_precision_f1("", "", "matched"),
    *_recall_precision_f1("conventional_", ", pair counts", "pairs"),
    *(
        _ratio(
            f"conventional_rer_per_gold_response_at_{k}",
            f"ReR@{k}, pair counts per response with gold",
            f"pairs_{k}",
            "responses_with_gold",
        )
        for k in CUTOFFS
    ),
    *_recall_precision_f1(
        "truncated_", ", gold as cut", "truncated_matched", gold="truncated_gold"
    ),
    *(_ratio(f"recall_at_{k}", f"R@{k}", f"ranking_hits_{k}", "gold") for k in CUTOFFS),
    *(_decrease(k) for k in CUTOFFS),
    *(
        _ratio(
            f"mismatch_at_{k}",
            f"Mismatch@{k}",
            f"mismatches_{k}",
            "module_slots",
            lower_is_better=True,
        )
        for k in CUTOFFS
    ),
    *_recall_precision_f1("related_", ", related", "related"),
    *_recall_precision_f1("random_related_", ", related, of a random order", "random_related"),
    _ratio("sr", "SR", "successes", "dialogues"),
    _ratio("rdl", "RDL", "rewards", "dialogues"),
    _ratio("any_sr", "SR of any film", "any_successes", "dialogues"),
    _ratio("any_rdl", "RDL of any film", "any_rewards", "dialogues"),
    _ratio("rec_ratio", "Rec ratio", "responses_with_slot", "responses"),
    _ratio("gold_rec_ratio", "Rec ratio of gold", "responses_with_gold", "responses"),
    Metric(
        name="perplexity",
        title="Perplexity",
        counts=("nll", "gold_tokens"),
        of=_perplexity,
        lower_is_better=True,
    ),
    _ratio(
        "bits_per_character",
        "Bits per character",
        "nll",
        "gold_characters",
        factor=1.0 / math.log(2.0),
        lower_is_better=True,
    ),
    *(_ratio(f"dist_{n}", f"DIST-{n}", f"distinct_{n}", f"ngrams_{n}") for n in DISTINCT_N),
    *(
        _ratio(f"conventional_dist_{n}", f"DIST-{n} per response", f"distinct_{n}", "responses")
        for n in DISTINCT_N
    ),
    _ratio("words_per_response", "Words per response", "ngrams_1", "responses"),
    _ratio("tokens_per_response", "Tokens per response", "tokens", "responses"),
    *(
        _ratio(
            f"within_dist_{n}", f"DIST-{n} within a response", f"within_distinct_{n}", f"ngrams_{n}"
        )
        for n in DISTINCT_N
    ),
    _ratio("frequent_share", "Share of the 10 most frequent responses", "frequent", "responses"),
    _ratio("repeated_share", "Share of responses said twice or more", "repeated", "responses"),
    _ratio("word_entropy", "Entropy of words, bits", "word_surprisal", "ngrams_1"),
    *_divergence(),
    _count("short_lists", "Lists too short"),
    _count("empty_questionnaires", "Dialogues without answers"),
)
"""In the order in which tables have them."""
