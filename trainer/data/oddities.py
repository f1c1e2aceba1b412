"""What a split holds that a reader of its counts would not expect: counted, and told by `prepare`.

Nothing of it is left out of the data, except the records that `--skip-bad` leaves out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.data.dialogue import MENTION_PATTERN, Dialogue, Mention, Message, split_mentions
from trainer.data.examples import Example
from trainer.data.knowledge_graph import YEAR_PATTERN


@dataclass(frozen=True, kw_only=True)
class Oddities:
    """One split's."""

    skipped_records: int
    """Bad records that `--skip-bad` left out."""
    dialogues_without_example: int
    """Only one side speaks, or the recommender only opens."""
    dialogues_without_answers: int
    """The seeker's questionnaire is empty."""
    unknown_mentions: int
    """"@1234" in a text that is no movie of the dialogue: it stays text."""
    repeated_keys: int
    """Keys given twice in a record, such as a movie's title: the last one counts."""
    repeated_messages: int
    """A sender's message that is the one before again; they are kept, as the peers do."""
    repeated_mentions: int
    """Movies that a recommender names in such a message; most are gold twice."""
    items_past_the_cut: int
    """Responses whose movies all stand past the cut: their action is [GEN]."""


def count_oddities(
    dialogues: Sequence[Dialogue], examples: Sequence[Example], num_skipped: int
) -> Oddities:
    """Count them in one split."""
    repeats = [(each, it) for each in dialogues for it in _repeats(each)]
    with_example = {example.example_id.rpartition(":")[0] for example in examples}
    return Oddities(
        skipped_records=num_skipped,
        dialogues_without_example=len(dialogues) - len(with_example),
        dialogues_without_answers=sum(not each.questionnaires.seeker for each in dialogues),
        unknown_mentions=sum(map(_num_unknown, dialogues)),
        repeated_keys=sum(each.origin.repeated_keys for each in dialogues),
        repeated_messages=len(repeats),
        repeated_mentions=sum(
            isinstance(piece, Mention)
            for each, message in repeats
            if message.sender == "recommender"
            for piece in split_mentions(message.text, each.titles)
        ),
        items_past_the_cut=sum(
            len(example.gold_items) > 0 and not example.is_recommendation for example in examples
        ),
    )


def find_twins(titles: Mapping[str, str]) -> list[list[str]]:
    """Movie ids that share a title with its year, in the order of the ids."""
    ids: dict[str, list[str]] = {}
    for movie_id, title in titles.items():
        if YEAR_PATTERN.search(title):
            ids.setdefault(" ".join(title.casefold().split()), []).append(movie_id)
    twins = (sorted(each, key=int) for each in ids.values() if len(each) > 1)
    return sorted(twins, key=lambda each: int(each[0]))


def _repeats(dialogue: Dialogue) -> list[Message]:
    return [
        message
        for before, message in itertools.pairwise(dialogue.messages)
        if message.text.strip() and (before.sender, before.text) == (message.sender, message.text)
    ]


def _num_unknown(dialogue: Dialogue) -> int:
    return sum(
        match.group(1) not in dialogue.titles
        for message in dialogue.messages
        for match in MENTION_PATTERN.finditer(message.text)
    )
