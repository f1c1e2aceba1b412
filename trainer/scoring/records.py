"""What a system said, one JSON object a line: the one format that is scored.

    {"dialogue": "20001", "message": "204188", "text": "You should see @111776!",
     "slots": [{"item": "111776", "ranked": ["111776", "84273"]}], "ranking": ["84273"],
     "tokens": 12, "nll": 31.7, "gold_tokens": 14, "seconds": null}

docs/evaluation.md describes the keys. Films are the corpus's own ids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common.atomic import write_text
from trainer.common.errors import InputError
from trainer.common.text_files import as_object, parse_json, read_text

REMEDY = "Mend the line; docs/evaluation.md describes the format."


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One place of a response that names a film."""

    item: str
    """The film's id in the corpus."""
    ranked: tuple[str, ...]
    """Distinct films, best first, at the step that named it; may be short or empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a system said in place of one message of a recommender.

    Its context is everything before that message. The record of the first message of a merged turn
    stands for the whole turn.
    """

    dialogue: str
    message: str
    text: str
    """Films are written "@<id>"."""
    slots: tuple[Slot, ...] = ()
    """One for each film in the text, in its order."""
    ranking: tuple[str, ...] | None = None
    """Distinct films, best first: of a ranking module; of a language model, at the response's step
    with the most mass on films. None: the system has no such list."""
    tokens: int | None = None
    """Tokens generated."""
    nll: float | None = None
    """Nats of the gold response of the merged turn, its end of text included."""
    gold_tokens: int | None = None
    """Tokens of that response."""
    seconds: float | None = None
    """Spent on this record."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells a record apart: dialogue and message."""
        return self.dialogue, self.message


def read_records(path: Path) -> list[Record]:
    """The records of a file, in their order; empty lines are passed over.

    Raises:
        MissingError: if there is no file.
        InputError: naming the line that is no record, or repeats the key of another.
    """
    records: dict[tuple[str, str], Record] = {}
    # Not splitlines: a text may hold other ends of lines, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = parse_record(line, f"{path}:{number}")
        if record.key in records:
            raise InputError(
                f"{path}:{number}: a message must have one record, got a second one of message "
                f"{record.message} of dialogue {record.dialogue}. {REMEDY}"
            )
        records[record.key] = record
    return list(records.values())


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a file of records, replacing it as a whole."""
    write_text(path, "".join(f"{to_line(record)}\n" for record in records))


def to_line(record: Record) -> str:
    """A record as one line of JSON, without the end of line."""
    content = {
        "dialogue": record.dialogue,
        "message": record.message,
        "text": record.text,
        "slots": [{"item": slot.item, "ranked": slot.ranked} for slot in record.slots],
        "ranking": record.ranking,
        "tokens": record.tokens,
        "nll": record.nll,
        "gold_tokens": record.gold_tokens,
        "seconds": record.seconds,
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def parse_record(line: str, place: str) -> Record:
    """The record of a line; `place` is named in the InputError, e.g. file:line.

    Keys that are not known are passed over, and those that may be null may be left out.
    """
    content = as_object(parse_json(line, place, remedy=REMEDY), place, remedy=REMEDY)
    reader = _Reader(content=content, place=place)
    return Record(
        dialogue=reader.text("dialogue"),
        message=reader.text("message"),
        text=reader.text("text", may_be_empty=True),
        slots=reader.slots(),
        ranking=reader.films("ranking", content.get("ranking")),
        tokens=reader.count("tokens", least=0),
        nll=reader.number("nll"),
        gold_tokens=reader.count("gold_tokens", least=1),
        seconds=reader.number("seconds"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reader:
    """Takes the values of one line out of its object, each checked."""

    content: Mapping[str, Any]
    place: str

    def text(self, key: str, *, may_be_empty: bool = False) -> str:
        value = self.content.get(key)
        if not isinstance(value, str) or not (value or may_be_empty):
            raise self._error(key, "a text", value)
        return value

    def slots(self) -> tuple[Slot, ...]:
        values = self.content.get("slots")
        if not isinstance(values, list):
            raise self._error("slots", "a list", values)
        return tuple(self._slot(f"slots[{n}]", value) for n, value in enumerate(values))

    def films(self, key: str, value: Any) -> tuple[str, ...] | None:
        if value is None:
            return None
        is_list = isinstance(value, list) and all(isinstance(it, str) for it in value)
        if not is_list or len(set(value)) != len(value):
            raise self._error(key, "a list of distinct film ids (texts)", value)
        return tuple(value)

    def count(self, key: str, *, least: int) -> int | None:
        value = self.content.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._error(key, f"null or a whole number from {least}", value)
        return value

    def number(self, key: str) -> float | None:
        value = self.content.get(key)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            raise self._error(key, "null or a finite number from 0", value)
        return float(value)

    def _slot(self, place: str, value: Any) -> Slot:
        item = value.get("item") if isinstance(value, dict) else None
        if not isinstance(item, str):
            raise self._error(place, 'an object with "item", a film id (a text)', value)
        ranked = self.films(f"{place}.ranked", value.get("ranked"))
        if ranked is None:
            raise self._error(f"{place}.ranked", "a list of distinct film ids (texts)", None)
        return Slot(item=item, ranked=ranked)

    def _error(self, key: str, rule: str, value: Any) -> InputError:
        got = "nothing" if value is None else f"{value!r:.60}"
        return InputError(f"{self.place}: {key} must be {rule}, got {got}. {REMEDY}")


def first_list(record: Record) -> Sequence[str]:
    """The list that ranks the films of a whole response: the module's, else the first slot's."""
    if record.ranking is not None:
        return record.ranking
    return record.slots[0].ranked if record.slots else ()
