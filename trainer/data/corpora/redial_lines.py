"""ReDial's dialogues, from JSON lines on disk to typed, validated dialogues.

Source of the format: Li et al., Towards Deep Conversational Recommendations, NeurIPS 2018.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError, MissingError
from trainer.data.corpora.redial_questionnaires import read_questionnaires
from trainer.data.dialogue import BadRecord, Dialogue, Message, Origin, Sender
from trainer.data.raw_text import clean_text

UTF8_MARK = b"\xef\xbb\xbf"
# How a file begins that is no JSON lines: its start, what it is, and how to convert it.
OTHER_FORMATS = (
    ((b"\x1f\x8b",), "a gzip file", "Decompress it: gunzip -c OLD > NEW"),
    (
        (b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{"),
        "UTF-16",
        "Convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW",
    ),
    ((b"[",), "a JSON array", "Write one object a line: jq -c '.[]' OLD > NEW"),
)


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
                _check_format(path, line)
            is_empty = False
            place = f"{path}:{number}"
            try:
                yield _parse_dialogue(line, place)
            except InputError as error:
                yield BadRecord(place, str(error))
    if is_empty:
        raise InputError(
            f"{path} must hold at least one dialogue, got an empty file. Fetch it again."
        )


def _check_format(path: Path | zipfile.Path, first_line: bytes) -> None:
    start = first_line.removeprefix(UTF8_MARK).lstrip(b" \t")
    for starts, what, remedy in OTHER_FORMATS:
        if start.startswith(starts):
            raise InputError(
                f"{path} must be UTF-8 with one JSON object a line, got {what}. {remedy}"
            )
    if start.strip() == b"{":
        raise InputError(
            f"{path} must be UTF-8 with one JSON object a line, got one over several lines. "
            "Write one a line: jq -c . OLD > NEW"
        )


def _parse_dialogue(line: bytes, place: str) -> Dialogue:
    repeated: list[str] = []
    record = _parse_json(line, repeated)
    dialogue_id = _dialogue_id(record)
    return Dialogue(
        dialogue_id=dialogue_id,
        titles=_titles(record),
        messages=_messages(record),
        questionnaires=read_questionnaires(record),
        origin=Origin(place=place, repeated_keys=len(repeated)),
    )


def _parse_json(line: bytes, repeated: list[str]) -> dict[str, Any]:
    """The object of a line; keys that an object gives twice are added to `repeated`."""

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated.extend(key for key, count in counts.items() if count > 1)
        return content

    try:
        record = json.loads(line, object_pairs_hook=to_object)
    except UnicodeDecodeError as error:
        raise InputError(
            f"the line must be UTF-8, got byte {error.object[error.start]:#04x} at {error.start}. "
            "Convert the file, from Latin-1 for example: iconv -f LATIN1 -t UTF-8 OLD > NEW"
        ) from error
    except json.JSONDecodeError as error:
        # A blank line feed at the end would put the column on a line of its own.
        column = min(error.pos, len(line.rstrip())) + 1
        raise InputError(
            f"the line must be one JSON object, got {error.msg} at column {column}. "
            "Correct or remove the line."
        ) from error
    except (ValueError, RecursionError) as error:
        what = "objects in each other too deep" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            f"the line must be one JSON object, got {what}. Correct or remove the line."
        ) from error
    if not isinstance(record, dict):
        raise InputError(
            f"the line must be one JSON object, got a {type(record).__name__}. "
            "Correct or remove the line."
        )
    return record


def _dialogue_id(record: dict[str, Any]) -> str:
    value = _field(record, "conversationId")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(
            f"conversationId must be a string or a number, got {value!r:.60}. Give it one."
        )
    return _unicode("conversationId", str(value))


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
        titles[movie_id] = " ".join(clean_text(_unicode(what, title or "")).split())
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
            f"{what}.senderWorkerId must be one of {', '.join(roles)}, got {sender!r:.60}. "
            "Correct it, or remove the message."
        )
    message_id = message.get("messageId")
    return Message(
        sender=roles[str(sender)],
        text=clean_text(_unicode(f"{what}.text", text)),
        message_id=_unicode(f"{what}.messageId", "" if message_id is None else str(message_id)),
    )


def _unicode(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} must be Unicode, got half a surrogate pair at {error.start}. "
            "Correct or remove the line."
        ) from error
    return text


def _field(record: dict[str, Any], key: str, prefix: str = "") -> Any:
    if key not in record:
        raise InputError(
            f"{prefix}{key} must be given, got keys {', '.join(sorted(record))[:200]}. "
            "Add it, or remove the line."
        )
    return record[key]
