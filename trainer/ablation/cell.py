"""A finished cell as a file: settings, sources, step metrics, scores, and sums for any test."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.ablation.revision import Revision
from trainer.common.atomic import write_text
from trainer.common.errors import InputError
from trainer.common.text_files import read_json_object

FORMAT = 1
REMEDY = "Make the cell again with python -m trainer.ablate --again, or remove the file."
VIEWS = ("paper.all", "paper.new", "sigir26.all", "sigir26.new")
"""Names of scores and sums."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One student, trained and scored; or a teacher, scored."""

    table: str
    arm: str
    seed: int
    settings: Mapping[str, Any]
    """In which it differs from other arms, as its arm declares them."""
    shared: Mapping[str, Any]
    """All other settings that decide what it learns, by dotted keys."""
    revision: Revision
    sources: Mapping[str, Any]
    """Digests of the data, the teachers and the weights that it started from."""
    machine: Mapping[str, Any]
    seconds: Mapping[str, float]
    """Of each stage, on that machine."""
    steps: Mapping[str, Any]
    """Step metrics, means over the last tenth of the steps."""
    scores: Mapping[str, Mapping[str, float | None]]
    """View -> metric -> score."""
    sums: Mapping[str, Mapping[str, Any]]
    """View -> DialogueSums, as JSON."""

    @property
    def name(self) -> str:
        """The arm and the seed, as files are named."""
        return f"{self.arm}-seed{self.seed}"


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell, a key a line: sums are long, and people compare the rest."""
    content = {"format": FORMAT, **dataclasses.asdict(cell)}
    lines = [f"{json.dumps(key)}: {_dumped(value)}" for key, value in content.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read_cell(path: Path) -> Cell:
    """The cell of a file.

    Raises:
        MissingError: if there is none.
        InputError: if it is no cell of this format.
    """
    content = read_json_object(path, remedy=REMEDY)
    found = content.pop("format", None)
    if found != FORMAT:
        raise InputError(f"{path} must be a cell of format {FORMAT}, got {found}. {REMEDY}")
    try:
        cell = Cell(**{**content, "revision": Revision(**content["revision"])})
        views = [cell.sums[name] for name in VIEWS] + [cell.scores[name] for name in VIEWS]
        is_whole = all(isinstance(it, dict) for it in (*views, cell.settings, cell.shared))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} must be a whole cell, got {error!r:.100}. {REMEDY}") from error
    if not is_whole or path != cell_path(path.parents[1], cell):
        raise InputError(
            f"{path} must be the cell of its name, got {cell.table}/{cell.name}. {REMEDY}"
        )
    return cell


def cell_path(cells: Path, cell: Cell) -> Path:
    """Where a cell lies."""
    return cells / cell.table / f"{cell.name}.json"


def read_cells(cells: Path, table: str) -> list[Cell]:
    """All finished cells of a table, in the order of their names; none without its folder."""
    return [read_cell(path) for path in sorted((cells / table).glob("*.json"))]
