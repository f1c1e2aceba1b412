"""The SIGIR '26 view: one instance a recommender message that names a film.

Source: Kostric and Balog, SIGIR 2026: raw messages, micro recall, success rate and reward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainer.data.prepared import PreparedData
from trainer.data.stored_dialogues import StoredDialogue
from trainer.scoring.answers import Answers, check_records, lay_out, sum_counts
from trainer.scoring.hits import Counts, ranking_hits
from trainer.scoring.records import Record, first_list
from trainer.scoring.scored_split import Instance, ScoredSplit, scored_split
from trainer.scoring.sums import DialogueSums

YES = 1
"""In ReDial's questionnaires."""
LIKED, SEEN = 1.0, 0.5
"""Rewards of a film at rank 1."""
Rewards = tuple[float, float]
"""Of an instance's first film: if it is gold, and whatever it is."""


def sigir26_view(
    records: Sequence[Record], data: PreparedData, split: str
) -> dict[str, DialogueSums]:
    """Sums over all instances ("all") and over gold that was not named before ("new").

    Reads the records of messages that name a film, in every dialogue of which there are records.

    Raises:
        InputError: if a record is of no recommender message of the split, or one is missing.
    """
    return sigir26_sums(records, scored_split(data, split))


def sigir26_sums(records: Sequence[Record], split: ScoredSplit) -> dict[str, DialogueSums]:
    """As `sigir26_view`, of a split that is read already."""
    check_records(records, split)
    answers = lay_out(records, split.instances, "the SIGIR '26 view")
    return {
        name: sum_counts(answers.dialogues, _counted(answers, split, only_new=name == "new"))
        for name in ("all", "new")
    }


def _counted(
    answers: Answers[Instance], split: ScoredSplit, *, only_new: bool
) -> Iterator[tuple[str, Counts]]:
    dialogues = {it.dialogue_id: it for it in split.dialogues}
    rewards: dict[str, list[Rewards]] = {dialogue: [] for dialogue in answers.dialogues}
    for instance, record in answers.pairs:
        named = frozenset(instance.named) if only_new else frozenset[str]()
        gold = [film for film in instance.gold if film not in named]
        counted = float(bool(gold))
        dialogue = instance.key[0]
        # The list stays as it is: what was named before is dropped from gold alone.
        ranking = first_list(record)
        hits = ranking_hits(ranking, gold)
        yield dialogue, {"instances": counted, "gold": float(len(gold)), **hits}
        if gold:
            # A film that was named before is no success of the new view.
            best = next((film for film in ranking[:1] if film not in named), "")
            reward = _reward(best, dialogues[dialogue])
            rewards[dialogue].append((reward if best in gold else 0.0, reward))
    for dialogue, found in rewards.items():
        yield dialogue, _dialogue_counts(found, dialogues[dialogue])


def _dialogue_counts(rewards: Sequence[Rewards], dialogue: StoredDialogue) -> Counts:
    """Success and reward of a dialogue; one without an instance does not count."""
    counts = {
        "dialogues": float(bool(rewards)),
        "empty_questionnaires": float(bool(rewards) and not dialogue.questionnaires.seeker),
    }
    for place, prefix in enumerate(("", "any_")):
        found = [each[place] for each in rewards]
        counts[f"{prefix}successes"] = float(any(reward > 0 for reward in found))
        counts[f"{prefix}rewards"] = sum(found) / len(dialogue.messages)
    return counts


def _reward(film: str, dialogue: StoredDialogue) -> float:
    """1 for a film that the seeker liked, a half for one that was only seen, else 0."""
    answers = dialogue.questionnaires.seeker.get(film)
    if answers is None:
        return 0.0
    return LIKED if answers.liked == YES else SEEN if answers.seen == YES else 0.0
