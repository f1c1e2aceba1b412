"""The card of an exported student: `student.json` beside its config.json.

The folder can be copied: the card names no path outside it, and has a digest of each file.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from protos.fingerprint import digest_file
from trainer.common.atomic import write_json
from trainer.common.errors import InputError, MissingError
from trainer.common.text_files import read_json_object
from trainer.data.action_form import action_names

STUDENT_CARD_NAME = "student.json"
MODEL_FOLDER = "model"
"""Folder of the exported student in a run directory."""
README_NAME = "README.md"
CLASSIFIER_FOLDER = "classifier"
ADDED = ("action_history", "action_loss")
"""Keys that a student of an earlier release does without."""
REMEDY = "Export the student again: the command that trained it does so."


@dataclass(frozen=True, kw_only=True)
class StudentCard:
    """Facts about an exported student that its readers check."""

    vocabulary_digest: str
    graph_digest: str
    """Of the graphs whose entities and words it reads; empty if it reads tokens alone."""
    action_tokens: bool
    """Its responses start with [REC] or [GEN]."""
    action_history: bool = False
    """So do the recommender's earlier turns in the context."""
    action_loss: bool = False
    """It predicts the action token itself, where no classifier is there to."""
    classifier: str | None
    """Folder of the turn classifier that picks the action token, inside the student's folder."""
    gamma: float
    steps: int
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    """Path in the folder -> digest, of all files but the card and the README."""

    @property
    def actions(self) -> tuple[str, ...]:
        """How it reads action tokens, by the names of its form; empty: it reads none."""
        return action_names(
            tokens=self.action_tokens, history=self.action_history, loss=self.action_loss
        )


def remove_student_card(folder: Path) -> None:
    """Delete the card first, so an interrupted export is not mistaken for a student."""
    (folder / STUDENT_CARD_NAME).unlink(missing_ok=True)


def copy_classifier(source: Path, folder: Path) -> str:
    """Copy a turn classifier into an exported student's folder; its name there."""
    target = folder / CLASSIFIER_FOLDER
    if source.resolve() != target.resolve():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    return CLASSIFIER_FOLDER


def write_student_card(folder: Path, card: StudentCard) -> None:
    """Complete an exported student; written last, so that a folder with a card is whole."""
    files = {name: digest_file(folder / name) for name in _names(folder)}
    write_json(folder / STUDENT_CARD_NAME, dataclasses.asdict(card) | {"files": files})


def read_student_card(folder: Path) -> StudentCard:
    """The card of an exported student; its files are not looked at.

    Raises:
        MissingError: if there is none.
        InputError: if it lacks a key, or a value is of another type.
    """
    path = folder / STUDENT_CARD_NAME
    content = read_json_object(path, remedy=REMEDY)
    names = [field.name for field in dataclasses.fields(StudentCard)]
    missing = [name for name in names if name not in content and name not in ADDED]
    if missing:
        raise InputError(
            f"{path} must be a student's card with {', '.join(names)}, got no {missing[0]}. "
            f"{REMEDY}"
        )
    known = {name: content[name] for name in names if name in content}
    try:
        return TypeAdapter(StudentCard).validate_python(known)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path} must be a student's card, got {first['input']!r} for {key}: {first['msg']}. "
            f"{REMEDY}"
        ) from error


def check_student_files(folder: Path, card: StudentCard) -> None:
    """Refuse an exported student of which a file is gone or has other bytes; reads all of them.

    Raises:
        MissingError: if a file is gone.
        InputError: if one has other bytes than when it was exported.
    """
    for name, digest in card.files.items():
        path = folder / name
        if not path.is_file():
            raise MissingError(f"{folder} must hold {name}, got none. {REMEDY}")
        found = digest_file(path)
        if found != digest:
            raise InputError(
                f"{path} must have digest {digest}, got {found}: the file was changed or torn. "
                f"Bring it back. {REMEDY}"
            )


def _names(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if name not in (STUDENT_CARD_NAME, README_NAME)]
