"""ReDial's dialogues, from JSON lines on disk to typed, validated dialogues.

Source of the format: Li et al., Towards Deep Conversational Recommendations, NeurIPS 2018.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError, MissingError
from trainer.data.dialogue import Dialogue, Message, Sender


def read_dialogues(path: Path | zipfile.Path) -> Iterator[Dialogue]:
    """Dialogues of one JSON-lines file, in its order.

    Args:
        path: a ReDial file, one JSON object a line; blank lines are skipped.

    Raises:
        MissingError: if there is no such file.
        InputError: naming file and line, for the first line that breaks the format, a repeated
            conversationId, or a file without dialogues.
    """
    if not path.is_file():
        raise MissingError(f"{path} must be a file of dialogues, got none. Check the folder.")
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                dialogue = _parse_dialogue(line)
                _check_is_new(dialogue.dialogue_id, seen)
            except ValueError as error:
                raise InputError(f"{path}:{number}: {error}") from error
            seen.add(dialogue.dialogue_id)
            yield dialogue
    if not seen:
        raise InputError(f"{path} must hold at least one dialogue, got an empty file.")


def _parse_dialogue(line: bytes) -> Dialogue:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise InputError(f"the line must be UTF-8, got a bad byte at {error.start}.") from error
    except json.JSONDecodeError as error:
        # A blank line feed at the end would put the column on a line of its own.
        column = min(error.pos, len(line.rstrip())) + 1
        raise InputError(
            f"the line must be one JSON object, got {error.msg} at column {column}. "
            "Correct or remove the line."
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"the line must be one JSON object, got a {type(record).__name__}.")
    dialogue_id = _dialogue_id(record)
    mentions = _movie_mentions(record)
    return Dialogue(
        dialogue_id=dialogue_id,
        messages=_messages(record),
        titles={key: " ".join((title or "").split()) for key, title in mentions.items()},
    )


def _dialogue_id(record: dict[str, Any]) -> str:
    value = _field(record, "conversationId")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"conversationId must be a string or a number, got {value!r}.")
    return str(value)


def _movie_mentions(record: dict[str, Any]) -> dict[str, str | None]:
    mentions = _field(record, "movieMentions")
    if mentions == []:  # ReDial writes an empty object as an empty list.
        return {}
    if not isinstance(mentions, dict):
        raise InputError(f"movieMentions must be an object or [], got {mentions!r:.60}.")
    for movie_id, title in mentions.items():
        if title is not None and not isinstance(title, str):
            raise InputError(f"movieMentions[{movie_id!r}] must be a title or null, got {title!r}.")
    return mentions


def _messages(record: dict[str, Any]) -> tuple[Message, ...]:
    messages = _field(record, "messages")
    if not isinstance(messages, list):
        raise InputError(f"messages must be a list, got {messages!r:.60}.")
    seeker = _field(record, "initiatorWorkerId")
    recommender = _field(record, "respondentWorkerId")
    if seeker == recommender:
        raise InputError(
            f"initiatorWorkerId and respondentWorkerId must differ, got {seeker!r} twice, "
            "so no message has a role. Remove the line."
        )
    roles: dict[Any, Sender] = {str(seeker): "seeker", str(recommender): "recommender"}
    return tuple(_message(message, index, roles) for index, message in enumerate(messages))


def _message(message: Any, index: int, roles: dict[Any, Sender]) -> Message:
    if not isinstance(message, dict):
        raise InputError(f"messages[{index}] must be an object, got {message!r:.60}.")
    text = _field(message, "text", f"messages[{index}].")
    if not isinstance(text, str):
        raise InputError(f"messages[{index}].text must be a string, got {text!r:.60}.")
    sender = _field(message, "senderWorkerId", f"messages[{index}].")
    if str(sender) not in roles:
        raise InputError(
            f"messages[{index}].senderWorkerId must be one of {', '.join(roles)}, got {sender!r}."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"messages[{index}].text must be Unicode, got half a surrogate pair at {error.start}. "
            "Correct or remove the line."
        ) from error
    return Message(sender=roles[str(sender)], text=text)


def _field(record: dict[str, Any], key: str, prefix: str = "") -> Any:
    if key not in record:
        raise InputError(f"{prefix}{key} must be given, got keys {', '.join(sorted(record))}.")
    return record[key]


def _check_is_new(dialogue_id: str, seen: set[str]) -> None:
    if dialogue_id in seen:
        raise InputError(
            f"conversationId must be unique in the file, got {dialogue_id} again. "
            "Remove the second line."
        )
