"""Whether cells belong together: what they may differ in is declared, and nothing else differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.ablation.arms import ANSWERS, CEILING, OF_TEACHERS, Table
from trainer.ablation.cell import Cell, cell_path
from trainer.ablation.plan import PlannedCell, is_compared
from trainer.ablation.revision import Revision, SameRevisions
from trainer.checkpoints.provenance import flat_settings
from trainer.common.errors import InputError

AGAIN = "Make it again with --again, or name another folder of --cells."
APART = "Cells of a table share all but what their arms declare. Make one of them again."


def shared_settings(cell: PlannedCell) -> dict[str, Any]:
    """What a cell shares with the other arms of its table: all that decides what is learnt."""
    return {
        key: value
        for key, value in json_settings(cell).items()
        if is_compared(key) and key not in cell.table.declared
    }


def declared_settings(cell: PlannedCell) -> dict[str, Any]:
    """The values of the settings in which arms of its table differ."""
    flat = json_settings(cell)
    return {key: flat[key] for key in sorted(cell.table.declared)}


def training_settings(cell: PlannedCell) -> dict[str, Any]:
    """What decides what a cell's student learns, however it answers."""
    return {
        key: value
        for key, value in json_settings(cell).items()
        if (is_compared(key) or key == "seed") and not key.startswith(ANSWERS)
    }


def json_settings(cell: PlannedCell) -> dict[str, Any]:
    """All settings of a cell by their dotted keys, as JSON has them."""
    answers = {f"{ANSWERS}{key}": it for key, it in asdict(cell.answering).items()}
    return json.loads(json.dumps({**flat_settings(cell.config), **answers}))


def check_done(
    planned: PlannedCell, found: Cell, revision: Revision, same: SameRevisions, path: Path
) -> None:
    """Refuse a finished cell that this code, or these settings, would not make.

    Raises:
        InputError: naming the code or the setting, with both values.
    """
    difference = same.difference(found.revision, revision)
    if difference is not None:
        raise InputError(f"{path} must be of this revision's {difference}. {AGAIN}")
    wanted = {**shared_settings(planned), **declared_settings(planned)}
    _check_settings(str(path), wanted, {**found.shared, **found.settings}, AGAIN)


def check_same_sources(
    found: Cell, *, vocabulary: str, teachers: Mapping[str, str], path: Path
) -> None:
    """Refuse a finished cell of other data, or of other teachers than those that are there.

    Args:
        found: the cell.
        vocabulary: digest of the data's.
        teachers: kind -> digest of the weights of its teacher.
        path: of the cell.

    Raises:
        InputError: naming what differs, and both digests.
    """
    wanted = {"vocabulary": vocabulary, **{f"{kind} teacher": it for kind, it in teachers.items()}}
    had = {
        "vocabulary": found.sources.get("vocabulary"),
        **{f"{kind} teacher": it for kind, it in found.sources.get("teachers", {}).items()},
    }
    for what in wanted.keys() & had.keys():
        if wanted[what] != had[what]:
            raise InputError(
                f"{path} must be of the {what} {wanted[what]:.12}, got {had[what]:.12}. Bring back "
                f"that {what.split()[-1]}, or make the cell again with --again."
            )


def check_together(table: Table, cells: Sequence[Cell], same: SameRevisions, folder: Path) -> None:
    """Refuse cells of one table that differ in more than their arms declare.

    Raises:
        InputError: naming the cell, what differs, and both values.
    """
    students = [cell for cell in cells if cell.arm not in CEILING]
    for cell in students:
        path = str(cell_path(folder, cell))
        _check_settings(path, table.arm(cell.arm).settings, cell.settings, AGAIN)
    for cell in cells:
        first, path = cells[0], str(cell_path(folder, cell))
        difference = same.difference(cell.revision, first.revision)
        if difference is not None:
            raise InputError(f"{path} must be of {first.name}'s {difference}. {AGAIN}")
    for cell in students:
        path = str(cell_path(folder, cell))
        _check_settings(path, students[0].shared, cell.shared, APART)
    _check_sources(table, cells, folder)


def _check_sources(table: Table, cells: Sequence[Cell], folder: Path) -> None:
    """The same data, the same film rows, and the same teachers where there are any."""
    known: dict[str, Any] = {}
    for cell in cells:
        for key, value in cell.sources.items():
            if (key == "examples" and table.name == "size") or not value:
                continue
            if key == "teachers" and cell.arm.startswith(OF_TEACHERS):
                continue
            for name, digest in value.items() if isinstance(value, Mapping) else [("", value)]:
                what = f"{key} {name}".strip()
                # These may have teachers of their own, the same in all of them.
                what += " of arms with the special token" * _has_token(cell, key)
                if known.setdefault(what, digest) != digest:
                    path = cell_path(folder, cell)
                    raise InputError(
                        f"{path} must have the {what} {known[what]:.20}, got {digest:.20}. {APART}"
                    )


def _has_token(cell: Cell, key: str) -> bool:
    return key == "teachers" and bool(cell.settings.get("action_tokens"))


def _check_settings(
    what: str, wanted: Mapping[str, Any], found: Mapping[str, Any], remedy: str
) -> None:
    """The same values; a setting that one of them does not have is a later version's."""
    for key in wanted.keys() & found.keys():
        if wanted[key] != found[key]:
            raise InputError(
                f"{key} of {what} must be {_text(wanted[key])}, got {_text(found[key])}. {remedy}"
            )


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
