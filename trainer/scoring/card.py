"""The card of a system: FILE.json beside FILE.jsonl says what wrote the records."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from trainer.common.atomic import write_json
from trainer.common.errors import InputError
from trainer.common.text_files import read_json_object

REMEDY = "Mend the card, or remove it."


@dataclass(frozen=True, kw_only=True)
class SystemCard:
    """What wrote a file of records; what is not known is None."""

    system: str
    """The name that tables have."""
    checkpoint_digest: str | None = None
    vocabulary_digest: str | None = None
    """`PreparedData.vocabulary.digest`; another one than the data's is refused."""
    data_digest: str | None = None
    """`manifest.dialogue_digests[split]`; another one than the data's is refused."""
    split: str | None = None
    decoding: str | None = None
    """As people read it: "greedy", "nucleus p .9 seed 0"."""
    machine: str | None = None
    seconds: float | None = None
    """Spent on the whole file."""
    latency_ms_median: float | None = None
    """Of a token, at batch size 1."""
    latency_ms_p90: float | None = None


def card_path(records: Path) -> Path:
    """Where the card of a file of records lies."""
    return records.with_suffix(".json")


def write_system_card(records: Path, card: SystemCard) -> None:
    """Write the card beside a file of records."""
    write_json(card_path(records), dataclasses.asdict(card))


def read_system_card(records: Path) -> SystemCard:
    """The card beside a file of records; without one the system has the file's name.

    Keys that are not known are passed over.

    Raises:
        InputError: if the card is torn, or a value is of the wrong type.
    """
    path = card_path(records)
    if not path.is_file() or path == records:
        return SystemCard(system=records.stem)
    content = read_json_object(path, remedy=REMEDY)
    names = [it.name for it in dataclasses.fields(SystemCard)]
    known = {name: content[name] for name in names if content.get(name) is not None}
    for name, value in known.items():
        is_number = name == "seconds" or name.startswith("latency_ms")
        if not (_is_number(value) if is_number else isinstance(value, str)):
            rule = "a finite number from 0" if is_number else "a text"
            raise InputError(
                f"{name} in {path} must be null or {rule}, got {value!r:.60}. {REMEDY}"
            )
    return SystemCard(**{"system": records.stem, **known})


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0
