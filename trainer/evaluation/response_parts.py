"""Responses on their way to a file: one part for each finished batch, in FILE.parts.

Batches are the same whatever the number of processes, and each is written at once and whole. So
processes share the work without talking to each other, one that was killed loses the batch it was
in, and the joined file has the same bytes as if one process had made all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common.atomic import write_json, write_text
from trainer.common.errors import InputError
from trainer.common.text_files import read_json_object
from trainer.scoring.card import card_path
from trainer.scoring.records import Record, to_line

PLAN_NAME = "plan.json"
PLAN_KEY = "plan"
"""In a card: what the responses were made of, and how."""
Plan = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ResponseParts:
    """The parts of one file."""

    output: Path
    plan: Plan
    """Everything that decides what is in the file, as JSON."""
    batches: Sequence[Sequence[int]]
    """Places in the file of each batch's records."""

    @property
    def folder(self) -> Path:
        """Where they lie until the file is whole."""
        return self.output.with_name(f"{self.output.name}.parts")

    def open(self) -> bool:
        """Make the folder, or go on with it; True if the file is whole already.

        Raises:
            InputError: if file or parts are of another plan.
        """
        if self.is_whole():
            shutil.rmtree(self.folder, ignore_errors=True)
            return True
        path = self.folder / PLAN_NAME
        if path.is_file():
            remedy = f"Remove {self.folder}."
            self._check_plan(read_json_object(path, remedy=remedy), self.folder, remedy)
        else:
            write_json(path, self.plan)
        return False

    def is_whole(self) -> bool:
        """Whether the file is there with its card, and of this plan.

        Raises:
            InputError: if what is there is of another plan, or of none.
        """
        card = card_path(self.output)
        remedy = "Remove it with its card, or name another file."
        if card.is_file():
            found = read_json_object(card, remedy=remedy).get(PLAN_KEY)
            self._check_plan(found if isinstance(found, dict) else {}, self.output, remedy)
            return self.output.is_file()
        if self.output.exists() and not self.folder.is_dir():
            raise InputError(
                f"--output must be a new file, or one that this command has begun, got "
                f"{self.output} without a card. {remedy}"
            )
        return False

    def missing(self) -> list[int]:
        """The batches that have no part yet."""
        return [n for n in range(len(self.batches)) if not self._path(n).is_file()]

    def write(self, batch: int, records: Sequence[Record], seconds: float) -> None:
        """Write the part of a batch."""
        assert len(records) == len(self.batches[batch]), f"{batch = } must have all its records"
        content = {"seconds": seconds, "lines": [to_line(record) for record in records]}
        write_text(self._path(batch), json.dumps(content) + "\n")

    def join(self) -> float | None:
        """Write the file from all parts; their seconds, or None if another process did or will."""
        try:
            parts = [json.loads(self._path(n).read_bytes()) for n in range(len(self.batches))]
        except FileNotFoundError:
            return None
        lines = {
            place: line
            for places, part in zip(self.batches, parts, strict=True)
            for place, line in zip(places, part["lines"], strict=True)
        }
        write_text(self.output, "".join(f"{lines[place]}\n" for place in sorted(lines)))
        return sum(part["seconds"] for part in parts)

    def remove(self) -> None:
        """Remove the parts; last, when the file has its card."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, batch: int) -> Path:
        return self.folder / f"{batch:06d}.json"

    def _check_plan(self, found: Plan, where: Path, remedy: str) -> None:
        # As JSON has it: tuples are lists.
        wanted = json.loads(json.dumps(self.plan))
        for key, value in wanted.items():
            if found.get(key) != value:
                raise InputError(
                    f"{key} of what is in {where} must be {value}, got {found.get(key)}: it is of "
                    f"another system, other data or other options. {remedy}"
                )
