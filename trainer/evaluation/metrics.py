"""Metrics of generated responses; numpy and the standard library only.

T responses, G_t gold items of response t (a multiset), S_t its generated item positions, L_k(s) the
top k items at the decoding step that emitted s. Definitions, sources and the choices where the
paper is silent: docs/evaluation.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.common.errors import InputError

CUTOFFS: tuple[int, ...] = (1, 10, 50)
"""The k of ReR@k, PrR@k and F1@k."""
NOT_LISTED = 1 << 62
"""Rank of a gold item that is not in a slot's list."""
WORD_PATTERN = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


@dataclass(frozen=True, eq=False, slots=True)
class ItemSlot:
    """One generated item position."""

    item: int
    """Index of the item that was emitted."""
    top_items: np.ndarray
    """Item indices, best first, at the step that emitted it; -1 is no item. `list_depth` items, so
    that the largest cutoff is still filled when the context's items are left out.
    """


@dataclass(frozen=True, kw_only=True)
class RecommendationScores:
    """Corpus sums behind ReR@k, PrR@k and F1@k, and these scores.

    A score whose denominator is 0 is 0; the counts beside it tell the case.
    """

    num_gold: int
    """Sum of |G_t|."""
    num_slots: int
    """Sum of |S_t|."""
    num_gold_responses: int
    """Responses with G_t not empty."""
    matched: dict[int, int]
    """k -> sum over responses of the maximum matching of S_t to G_t; at most min(|S_t|, |G_t|)."""
    pairs: dict[int, int]
    """k -> sum over responses of the pairs (s, g) with g in L_k(s), the conventional numerator."""

    def to_dict(self) -> dict[str, Any]:
        """Headline scores (matched) flat, and below "conventional" those from pair counts.

        There, rer_at_k, prr_at_k, f1_at_k have the paper's refined denominators, and
        rer_per_gold_response_at_k has NTRD's (Table 8); all may exceed 1.
        """
        conventional: dict[str, Any] = {}
        for k in CUTOFFS:
            ratio = _ratio(self.pairs[k], self.num_gold_responses)
            conventional[f"rer_per_gold_response_at_{k}"] = ratio
        return {
            **self._scores(self.matched),
            "num_gold": self.num_gold,
            "num_slots": self.num_slots,
            "num_gold_responses": self.num_gold_responses,
            **{f"matched_at_{k}": self.matched[k] for k in CUTOFFS},
            "conventional": {
                **self._scores(self.pairs),
                **conventional,
                **{f"pairs_at_{k}": self.pairs[k] for k in CUTOFFS},
            },
        }

    def _scores(self, hits: dict[int, int]) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        for k in CUTOFFS:
            recall, precision = _ratio(hits[k], self.num_gold), _ratio(hits[k], self.num_slots)
            scores[f"rer_at_{k}"] = recall
            scores[f"prr_at_{k}"] = precision
            scores[f"f1_at_{k}"] = _ratio(2 * recall * precision, recall + precision)
        return scores


def list_depth(num_items: int, num_mentioned: int) -> int:
    """Items that a slot's ranked list must hold where the context names `num_mentioned` items."""
    return min(num_items, max(CUTOFFS) + num_mentioned)


def recommendation_scores(
    slots: Sequence[Sequence[ItemSlot]],
    gold: Sequence[Sequence[int]],
    *,
    num_items: int,
    mentioned: Sequence[AbstractSet[int]] | None = None,
) -> RecommendationScores:
    """Score the item positions of T responses against their gold items.

    Args:
        slots: S_t of every response.
        gold: G_t of every response, item indices, repeats kept.
        num_items: size of the catalogue.
        mentioned: items named in each context. If given, they are dropped from G_t and from every
            ranked list (new items only); the positions in S_t stay, so repeating costs precision.

    Raises:
        ValueError: if the lengths differ or a ranked list is too short for the largest cutoff.
    """
    excluded = mentioned if mentioned is not None else [frozenset[int]()] * len(gold)
    if not len(slots) == len(gold) == len(excluded):
        raise ValueError(
            f"slots, gold and mentioned must be of one length, got {len(slots)}, {len(gold)} and "
            f"{len(excluded)}."
        )
    matched, pairs = dict.fromkeys(CUTOFFS, 0), dict.fromkeys(CUTOFFS, 0)
    kept_gold = [[g for g in G if g not in out] for G, out in zip(gold, excluded, strict=True)]
    for slots_S, gold_G, out in zip(slots, kept_gold, excluded, strict=True):
        _check_depth(slots_S, list_depth(num_items, len(out)))
        ranks_SG = _gold_ranks(slots_S, gold_G, out)
        for k in CUTOFFS:
            hits_SG = ranks_SG < k
            pairs[k] += int(hits_SG.sum())
            matched[k] += maximum_matching(hits_SG)
    return RecommendationScores(
        num_gold=sum(map(len, kept_gold)),
        num_slots=sum(map(len, slots)),
        num_gold_responses=sum(bool(G) for G in kept_gold),
        matched=matched,
        pairs=pairs,
    )


def maximum_matching(edges_SG: np.ndarray) -> int:
    """Size of a maximum matching of a bipartite graph, bool [S, G], by augmenting paths."""
    num_slots, num_gold = edges_SG.shape
    slot_of_gold = [-1] * num_gold

    def augment(slot: int, visited: set[int]) -> bool:
        for gold in range(num_gold):
            if not edges_SG[slot, gold] or gold in visited:
                continue
            visited.add(gold)
            if slot_of_gold[gold] < 0 or augment(slot_of_gold[gold], visited):
                slot_of_gold[gold] = slot
                return True
        return False

    return sum(augment(slot, set()) for slot in range(num_slots))


def recommendation_ratio(slots: Sequence[Sequence[ItemSlot]]) -> float:
    """Share of responses with at least one item."""
    return _ratio(sum(bool(S) for S in slots), len(slots))


def perplexity(nll_sum: float, num_tokens: int) -> float:
    """exp of the mean NLL (nats) per gold token, end of text included; inf past float range."""
    if num_tokens < 1:
        raise InputError(f"perplexity must have at least 1 gold token, got {num_tokens}.")
    mean = nll_sum / num_tokens
    return math.exp(mean) if mean < math.log(np.finfo(np.float64).max) else math.inf


def bits_per_character(nll_sum: float, num_characters: int) -> float:
    """NLL in bits per character of the gold text, titles written out: comparable over vocabularies.

    The end of text is in the NLL but has no character.
    """
    if num_characters < 1:
        raise InputError(f"gold text must have at least 1 character, got {num_characters}.")
    return nll_sum / math.log(2) / num_characters


def to_words(text: str) -> list[str]:
    """The words that DIST-n counts: runs of letters and digits, with inner apostrophes, and single
    punctuation marks; case is kept. ("don't!" is two words.)
    """
    return WORD_PATTERN.findall(text)


def response_words(
    token_ids: Sequence[int], is_item: Callable[[int], bool], decode: Callable[[list[int]], str]
) -> list[str]:
    """Words of a generated response, where a movie is ONE word, as in the systems we compare with.

    `decode` gets the tokens between two movies.
    """
    words: list[str] = []
    run: list[int] = []
    for token_id in token_ids:
        if is_item(token_id):
            words += [*to_words(decode(run)), f"@{token_id}"]
            run = []
        else:
            run.append(token_id)
    return words + to_words(decode(run))


def distinct_n(outputs: Sequence[Sequence[str]], n: int) -> float:
    """Corpus DIST-n: distinct n-grams over all n-grams of all responses (paper, Table 3)."""
    ngrams = _ngrams(outputs, n)
    return _ratio(len(set(ngrams)), len(ngrams))


def conventional_distinct_n(outputs: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over the number of responses (paper, Table 8); may exceed 1."""
    return _ratio(len(set(_ngrams(outputs, n))), len(outputs))


def copy_slots(mentioned_M: Sequence[int], num_slots: int, depth: int) -> tuple[ItemSlot, ...]:
    """The baseline that repeats the context: every slot ranks the context's items, latest first."""
    if not mentioned_M:
        return ()
    latest_first = np.array(mentioned_M[::-1][:depth], np.int32)
    # -1, no item: a copy list is shorter than the cutoffs.
    padded = np.full(depth, -1, np.int32)
    padded[: len(latest_first)] = latest_first
    return (ItemSlot(item=int(latest_first[0]), top_items=padded),) * num_slots


def popularity_slots(ranking_I: np.ndarray, num_slots: int) -> tuple[ItemSlot, ...]:
    """The baseline that recommends what is mentioned most in training, whatever was said."""
    return (ItemSlot(item=int(ranking_I[0]), top_items=ranking_I),) * num_slots


def _gold_ranks(
    slots: Sequence[ItemSlot], gold: Sequence[int], excluded: AbstractSet[int]
) -> np.ndarray:
    """Rank of each gold item in each slot's list without the excluded items; int64 [S, G]."""
    ranks_SG = np.full((len(slots), len(gold)), NOT_LISTED, np.int64)
    for row, slot in enumerate(slots):
        listed = [item for item in slot.top_items.tolist() if item not in excluded]
        rank_of = {item: rank for rank, item in enumerate(listed)}
        ranks_SG[row] = [rank_of.get(item, NOT_LISTED) for item in gold]
    return ranks_SG


def _check_depth(slots: Sequence[ItemSlot], depth: int) -> None:
    shortest = min((len(slot.top_items) for slot in slots), default=depth)
    if shortest < depth:
        raise ValueError(
            f"top_items must hold at least {depth} items, got {shortest}. Record more per position."
        )


def _ngrams(outputs: Sequence[Sequence[str]], n: int) -> list[tuple[str, ...]]:
    """n-grams within responses, none across their ends."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    return [tuple(words[i : i + n]) for words in outputs for i in range(len(words) - n + 1)]


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
