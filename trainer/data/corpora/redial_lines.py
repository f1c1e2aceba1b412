"""ReDial's dialogues, from JSON lines on disk to typed, validated dialogues.

Source of the format: Li et al., Towards Deep Conversational Recommendations, NeurIPS 2018.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError, MissingError
from trainer.data.corpora.json_lines import UTF8_MARK, check_format, check_unicode, parse_json
from trainer.data.corpora.redial_questionnaires import read_questionnaires
from trainer.data.dialogue import BadRecord, Dialogue, Message, Origin, Sender
from trainer.data.raw_text import clean_text


def read_dialogues(path: Path | zipfile.Path) -> Iterator[Dialogue | BadRecord]:
    """Dialogues of one JSON-lines file, in its order; a BadRecord for a line that is none.

    Args:
        path: a ReDial file, one JSON object a line; blank lines are skipped.

    Raises:
        MissingError: if there is no such file.
        InputError: if it is empty, or as a whole no UTF-8 or no JSON lines.
    """
    if not path.is_file():
        raise MissingError(f"{path} must be a file of dialogues, got none. Check the folder.")
    is_empty = True
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.removeprefix(UTF8_MARK).strip():
                continue
            if is_empty:
                check_format(path, line)
            is_empty = False
            place = f"{path}:{number}"
            try:
                yield _parse_dialogue(line, place)
            except InputError as error:
                # A key may be what no file can hold, half a surrogate pair.
                yield BadRecord(place, str(error).encode(errors="backslashreplace").decode())
    if is_empty:
        raise InputError(
            f"{path} must hold at least one dialogue, got an empty file. Fetch it again."
        )


def _parse_dialogue(line: bytes, place: str) -> Dialogue:
    repeated: list[str] = []
    record = parse_json(line, repeated)
    dialogue_id = _dialogue_id(record)
    return Dialogue(
        dialogue_id=dialogue_id,
        titles=_titles(record),
        messages=_messages(record),
        questionnaires=read_questionnaires(record),
        origin=Origin(place=place, repeated_keys=len(repeated)),
    )


def _dialogue_id(record: dict[str, Any]) -> str:
    value = _field(record, "conversationId")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(
            f"conversationId must be a string or a number, got {value!r:.60}. Give it one."
        )
    return check_unicode("conversationId", str(value))


def _titles(record: dict[str, Any]) -> dict[str, str]:
    mentions = _field(record, "movieMentions")
    if mentions == []:  # ReDial writes an empty object as an empty list.
        return {}
    if not isinstance(mentions, dict):
        raise InputError(
            f"movieMentions must be an object or [], got {mentions!r:.60}. "
            "Write [] for a dialogue without movies."
        )
    titles: dict[str, str] = {}
    for movie_id, title in mentions.items():
        what = f"movieMentions[{movie_id!r:.60}]"
        if title is not None and not isinstance(title, str):
            raise InputError(
                f"{what} must be a title or null, got {title!r:.60}. Write null if it is not known."
            )
        titles[movie_id] = " ".join(clean_text(check_unicode(what, title or "")).split())
    return titles


def _messages(record: dict[str, Any]) -> tuple[Message, ...]:
    messages = _field(record, "messages")
    if not isinstance(messages, list):
        raise InputError(f"messages must be a list, got {messages!r:.60}. Write [] for none.")
    seeker = _field(record, "initiatorWorkerId")
    recommender = _field(record, "respondentWorkerId")
    if str(seeker) == str(recommender):
        raise InputError(
            f"initiatorWorkerId and respondentWorkerId must differ, got {seeker!r:.60} twice, "
            "so no message has a role. Remove the line."
        )
    roles: dict[str, Sender] = {str(seeker): "seeker", str(recommender): "recommender"}
    return tuple(_message(message, index, roles) for index, message in enumerate(messages))


def _message(message: Any, index: int, roles: dict[str, Sender]) -> Message:
    what = f"messages[{index}]"
    if not isinstance(message, dict):
        raise InputError(f"{what} must be an object, got {message!r:.60}. Correct or remove it.")
    text = _field(message, "text", f"{what}.")
    if not isinstance(text, str):
        raise InputError(
            f"{what}.text must be a string, got {text!r:.60}. "
            'Write "" for an empty message, or remove the message.'
        )
    sender = _field(message, "senderWorkerId", f"{what}.")
    if str(sender) not in roles:
        raise InputError(
            f"{what}.senderWorkerId must be one of {', '.join(roles)[:60]}, got {sender!r:.60}. "
            "Correct it, or remove the message."
        )
    message_id = message.get("messageId")
    name = "" if message_id is None else str(message_id)
    return Message(
        sender=roles[str(sender)],
        text=clean_text(check_unicode(f"{what}.text", text)),
        message_id=check_unicode(f"{what}.messageId", name),
    )


def _field(record: dict[str, Any], key: str, prefix: str = "") -> Any:
    if key not in record:
        raise InputError(
            f"{prefix}{key} must be given, got keys {', '.join(sorted(record))[:200]}. "
            "Add it, or remove the line."
        )
    return record[key]
