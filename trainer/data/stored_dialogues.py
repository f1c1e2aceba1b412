"""dialogues-<split>.jsonl: the dialogues of a prepared folder as they were held.

Examples have merged turns, cut to the models' limits. What evaluation needs beside them is here:
the single messages with their ids and movies, which messages a response was made of, and what both
sides answered about each film.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.fingerprint import digest_strings
from trainer.common.atomic import write_text
from trainer.common.errors import InputError, MissingError
from trainer.data.dialogue import (
    Dialogue,
    FilmAnswers,
    Mention,
    Questionnaires,
    Sender,
    split_mentions,
)
from trainer.data.dialogue_examples import turn_numbers
from trainer.data.examples import Example

SENDERS: Mapping[str, Sender] = {"seeker": "seeker", "recommender": "recommender"}


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message as it was sent."""

    message_id: str
    sender: Sender
    text: str
    """Movies are written "@123", with their number in the corpus."""
    mentions: tuple[str, ...]
    """Movie ids named, in order, with repeats."""
    turn: int
    """Index of the merged turn that it is part of."""


@dataclass(frozen=True, slots=True)
class StoredDialogue:
    """A dialogue with its single messages."""

    dialogue_id: str
    messages: tuple[StoredMessage, ...]
    responses: tuple[int, ...]
    """Turns that are examples: turn t is the example "<dialogue id>:<t>"."""
    questionnaires: Questionnaires

    def messages_of(self, turn: int) -> tuple[StoredMessage, ...]:
        """The messages that a turn was merged from; those of a response have its message ids."""
        return tuple(message for message in self.messages if message.turn == turn)


def dialogues_name(split: str) -> str:
    """The file of a split in the prepared folder."""
    return f"dialogues-{split}.jsonl"


def store_dialogues(
    dialogues: Iterable[Dialogue], examples: Iterable[Example]
) -> list[StoredDialogue]:
    """The dialogues of a split in their order, also those that give no example."""
    responses: dict[str, list[int]] = {}
    for example in examples:
        dialogue_id, _, turn = example.example_id.rpartition(":")
        responses.setdefault(dialogue_id, []).append(int(turn))
    return [_store(dialogue, responses.get(dialogue.dialogue_id, [])) for dialogue in dialogues]


def write_dialogues(path: Path, dialogues: Iterable[StoredDialogue]) -> str:
    """Write JSON lines, replacing the file as a whole; return the digest of its content."""
    text = "".join(f"{json.dumps(_to_record(dialogue))}\n" for dialogue in dialogues)
    write_text(path, text)
    return digest_strings([text])


def read_dialogues(path: Path, digest: str) -> list[StoredDialogue]:
    """The dialogues of a file, in their order.

    Raises:
        MissingError: if there is no such file.
        InputError: if its content has another digest, or a line is no dialogue.
    """
    if not path.is_file():
        raise MissingError(f"{path} must be a file of dialogues, got none. Prepare the data again.")
    content = path.read_bytes()
    text = content.decode("ascii", errors="replace")
    if digest_strings([text]) != digest:
        raise InputError(
            f"{path} must have the digest of the manifest, {digest}, got "
            f"{digest_strings([text])}. Prepare the data again."
        )
    return [_from_line(path, n, line) for n, line in enumerate(text.splitlines(), start=1)]


def _store(dialogue: Dialogue, responses: Sequence[int]) -> StoredDialogue:
    turns = turn_numbers(dialogue)
    messages = tuple(
        StoredMessage(
            message_id=message.message_id or str(index),
            sender=message.sender,
            text=message.text,
            mentions=tuple(
                piece.movie_id
                for piece in split_mentions(message.text, dialogue.titles)
                if isinstance(piece, Mention)
            ),
            turn=turn,
        )
        for index, (message, turn) in enumerate(zip(dialogue.messages, turns, strict=True))
    )
    return StoredDialogue(dialogue.dialogue_id, messages, tuple(responses), dialogue.questionnaires)


def _to_record(dialogue: StoredDialogue) -> dict[str, Any]:
    return {
        "dialogue_id": dialogue.dialogue_id,
        "messages": [
            {
                "message_id": message.message_id,
                "sender": message.sender,
                "text": message.text,
                "mentions": message.mentions,
                "turn": message.turn,
            }
            for message in dialogue.messages
        ],
        "responses": dialogue.responses,
        "seeker_answers": _to_forms(dialogue.questionnaires.seeker),
        "recommender_answers": _to_forms(dialogue.questionnaires.recommender),
    }


def _to_forms(answers: Mapping[str, FilmAnswers]) -> dict[str, list[int]]:
    """Movie id -> [suggested, seen, liked]."""
    return {movie: [form.suggested, form.seen, form.liked] for movie, form in answers.items()}


def _from_line(path: Path, number: int, line: str) -> StoredDialogue:
    try:
        record = json.loads(line)
        return StoredDialogue(
            dialogue_id=record["dialogue_id"],
            messages=tuple(_from_message(message) for message in record["messages"]),
            responses=tuple(record["responses"]),
            questionnaires=Questionnaires(
                seeker=_from_forms(record["seeker_answers"]),
                recommender=_from_forms(record["recommender_answers"]),
            ),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}:{number}: the line must be a dialogue, got {error!r:.100}. "
            "Prepare the data again."
        ) from error


def _from_message(record: dict[str, Any]) -> StoredMessage:
    return StoredMessage(
        message_id=record["message_id"],
        sender=SENDERS[record["sender"]],
        text=record["text"],
        mentions=tuple(record["mentions"]),
        turn=record["turn"],
    )


def _from_forms(record: Mapping[str, Sequence[int]]) -> dict[str, FilmAnswers]:
    return {movie: FilmAnswers(*codes) for movie, codes in record.items()}
