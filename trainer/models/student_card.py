"""The card of an exported student: `student.json` beside its config.json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from trainer.common.atomic import write_json

STUDENT_CARD_NAME = "student.json"
MODEL_FOLDER = "model"
"""Folder of the exported student in a run directory."""


@dataclass(frozen=True, kw_only=True)
class StudentCard:
    """Facts about an exported student that its readers check."""

    vocabulary_digest: str
    graph_digest: str
    """Of the graphs whose entities and words it reads; empty if it reads tokens alone."""
    action_tokens: bool
    """Its responses start with [REC] or [GEN]."""
    classifier: str | None
    """Folder of the turn classifier that picks the action token, seen from the student's folder."""
    gamma: float
    steps: int


def remove_student_card(folder: Path) -> None:
    """Delete the card first, so an interrupted export is not mistaken for a student."""
    (folder / STUDENT_CARD_NAME).unlink(missing_ok=True)


def write_student_card(folder: Path, card: StudentCard) -> None:
    """Complete an exported student; written last, so that a folder with a card is whole."""
    write_json(folder / STUDENT_CARD_NAME, dataclasses.asdict(card))
