"""The paper's view (Tables 1-4, 8, Appendix F): one response a merged recommender turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from trainer.common.errors import InputError
from trainer.data.prepared import PreparedData
from trainer.scoring.answers import Answers, check_records, lay_out, sum_counts
from trainer.scoring.hits import (
    Counts,
    mismatches,
    ranking_hits,
    related_hits,
    slot_hits,
    without,
)
from trainer.scoring.metrics import CUTOFFS, list_depth
from trainer.scoring.records import Record
from trainer.scoring.related_films import random_hit
from trainer.scoring.scored_split import ScoredSplit, Turn, scored_split
from trainer.scoring.sums import DialogueSums
from trainer.scoring.variety import variety_counts
from trainer.scoring.wording import response_words, wording_counts


def paper_view(
    records: Sequence[Record], data: PreparedData, split: str
) -> dict[str, DialogueSums]:
    """Sums over all gold ("all") and over new items only ("new").

    Reads the record of the first message of each merged turn that is an example, in every dialogue
    of which there are records.

    Raises:
        InputError: if a record is of no recommender message of the split, or one is missing.
    """
    return paper_sums(records, scored_split(data, split))


def paper_sums(
    records: Sequence[Record], split: ScoredSplit, *, has_words: bool = True
) -> dict[str, DialogueSums]:
    """As `paper_view`, of a split that is read already.

    Without words the text only names films, as that of a baseline, and is not scored.
    """
    check_records(records, split)
    answers = lay_out(records, split.turns, "the paper's view")
    return {
        "all": sum_counts(
            answers.dialogues,
            [
                *_film_counts(answers, split, only_new=False),
                *_other_counts(answers, split, has_words=has_words),
            ],
        ),
        "new": sum_counts(answers.dialogues, _film_counts(answers, split, only_new=True)),
    }


def _film_counts(
    answers: Answers[Turn], split: ScoredSplit, *, only_new: bool
) -> Iterator[tuple[str, Counts]]:
    """Counts of films. Those left out are neither gold nor in a list; naming one still costs."""
    speaks, ranks = _speaks(answers), _ranks(answers)
    for turn, record in answers.pairs:
        left_out = frozenset(turn.named) if only_new else frozenset[str]()
        gold = without(turn.gold, left_out)
        asked = {"responses": 1.0, "responses_with_gold": float(bool(gold))}
        yield turn.key[0], {**asked, "gold": float(len(gold))}
        if speaks:
            yield turn.key[0], _slot_counts(turn, record, gold, left_out, split)
        if ranks:
            yield turn.key[0], ranking_hits(without(record.ranking or (), left_out), gold)
        if speaks and ranks:
            yield turn.key[0], _mismatch_counts(record, left_out)


def _ranks(answers: Answers[Turn]) -> bool:
    """Whether the system has a list for responses as a whole."""
    return any(record.ranking is not None for _, record in answers.pairs)


def _speaks(answers: Answers[Turn]) -> bool:
    """Whether the system has a text; a ranking module alone has none."""
    says = any(record.text or record.tokens is not None for _, record in answers.pairs)
    return says or not _ranks(answers)


def _slot_counts(
    turn: Turn,
    record: Record,
    gold: Sequence[str],
    left_out: AbstractSet[str],
    split: ScoredSplit,
) -> Counts:
    lists = [without(slot.ranked, left_out) for slot in record.slots]
    items = without([slot.item for slot in record.slots], left_out)
    related = (split.related.of(turn.named) | set(gold)) - left_out if lists else frozenset()
    num_films = len(split.films) - len(left_out)
    random_hits = {
        f"random_related_{k}": len(lists) * random_hit(num_films, len(related), k) for k in CUTOFFS
    }
    return {
        "slots": float(len(lists)),
        "responses_with_slot": float(bool(items)),
        **slot_hits(lists, gold),
        **related_hits(lists, related),
        **random_hits,
    }


def _mismatch_counts(record: Record, left_out: AbstractSet[str]) -> Counts:
    """Films that the response names and the system's own list has not among its first."""
    items = without([slot.item for slot in record.slots], left_out)
    ranking = without(record.ranking or (), left_out)
    return {"module_slots": float(len(items)), **mismatches(items, ranking)}


def _other_counts(
    answers: Answers[Turn], split: ScoredSplit, *, has_words: bool
) -> Iterator[tuple[str, Counts]]:
    """What the view of all films has alone."""
    if _speaks(answers):
        yield from _cut_counts(answers)
    if _speaks(answers) and has_words:
        yield from _text_counts(answers, split)
    if _are_known("nll and gold_tokens", [record.nll for _, record in answers.pairs]):
        for turn, record in answers.pairs:
            yield turn.key[0], _likelihood(turn, record)


def _cut_counts(answers: Answers[Turn]) -> Iterator[tuple[str, Counts]]:
    """Hits of gold as cut to the limit of a response."""
    for turn, record in answers.pairs:
        hits = slot_hits([slot.ranked for slot in record.slots], turn.cut_gold, prefix="truncated_")
        yield turn.key[0], {"truncated_gold": float(len(turn.cut_gold)), **hits}


def _text_counts(answers: Answers[Turn], split: ScoredSplit) -> Iterator[tuple[str, Counts]]:
    """Counts of words and tokens, and of lists that are shorter than the last cutoff needs."""
    words = [(turn.key[0], response_words(it.text, split.films)) for turn, it in answers.pairs]
    for dialogue, counts in wording_counts(words).items():
        yield dialogue, dict(counts)
    yield from variety_counts(words)
    has_tokens = _are_known("tokens", [it.tokens for _, it in answers.pairs])
    for turn, record in answers.pairs:
        wanted = list_depth(len(split.films), len(turn.named))
        short = sum(len(slot.ranked) < wanted for slot in record.slots)
        tokens = {"tokens": float(record.tokens or 0)} if has_tokens else {}
        yield turn.key[0], {"short_lists": float(short), **tokens}


def _likelihood(turn: Turn, record: Record) -> Counts:
    if record.gold_tokens is None:
        raise InputError(
            f"gold_tokens must stand beside nll, got none in message {record.message} of dialogue "
            f"{record.dialogue}. Write both or neither."
        )
    return {
        "nll": float(record.nll or 0.0),
        "gold_tokens": float(record.gold_tokens),
        "gold_characters": float(turn.num_characters),
    }


def _are_known(what: str, values: Sequence[float | None]) -> bool:
    num_known = sum(value is not None for value in values)
    if num_known not in (0, len(values)):
        raise InputError(
            f"{what} must stand in all records of first messages or in none, got {num_known} of "
            f"{len(values)}. Write them in all of these."
        )
    return num_known > 0
