"""The cells of an ablation, each as the settings of one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.ablation.arms import OF_TEACHERS, Table, table_of
from trainer.ablation.config import AblationConfig, TeacherPair
from trainer.common.errors import InputError
from trainer.config.run import RunConfig
from trainer.config.yaml_file import parse_config
from trainer.evaluation.arms import Arm

OF_THE_MACHINE = ("output", "data", "classifier", "item_vectors", "knowledge", "deepspeed")
"""Paths, of which a cell keeps what lies there by its digest."""
GROUPS_OF_THE_MACHINE = ("teachers.", "watch.")


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One student to be trained and scored."""

    table: Table
    arm: Arm
    seed: int
    config: RunConfig
    """Whole; its `output` is the run's folder."""
    teachers: TeacherPair

    @property
    def name(self) -> str:
        """The arm and the seed, as files are named."""
        return f"{self.arm.name}-seed{self.seed}"

    def path(self, cells: Path) -> Path:
        """Where the finished cell lies."""
        return cells / self.table.name / f"{self.name}.json"


def planned_cells(
    config: AblationConfig, *, tables: Sequence[str], num_seeds: int
) -> list[PlannedCell]:
    """All cells of these tables, seed after seed, so that a part of them can be compared.

    Raises:
        InputError: for a table that the config does not have, and settings that none has.
    """
    unknown = [name for name in tables if name not in config.tables]
    if unknown:
        raise InputError(
            f"--table must be one of the config's, {', '.join(config.tables)}, got {unknown[0]}. "
            "Name one of them."
        )
    chosen = [table_of(name) for name in (tables or config.tables)]
    return [
        _planned(config, table, arm, seed)
        for seed in range(num_seeds)
        for table in chosen
        for arm in (*table.arms, *(table.ceiling if seed == 0 else ()))
        if _teachers_of(config, arm) is not None
    ]


def _planned(config: AblationConfig, table: Table, arm: Arm, seed: int) -> PlannedCell:
    output = Path(config.run.output) / table.name / f"{arm.name}-seed{seed}"
    settings = {**config.tables[table.name], **arm.settings, "seed": seed, "output": str(output)}
    teachers = _teachers_of(config, arm)
    assert teachers is not None, "arms without teachers are left out"
    return PlannedCell(
        table=table,
        arm=arm,
        seed=seed,
        config=with_settings(config.run, settings, f"{table.name} {arm.name}"),
        teachers=teachers,
    )


def _teachers_of(config: AblationConfig, arm: Arm) -> TeacherPair | None:
    """The teachers of an arm; None where the config does not have those that it is named by."""
    name = arm.name.removeprefix(OF_TEACHERS)
    if name in (arm.name, "full"):
        return config.teachers
    return config.weaker.get(name)


def with_settings(run: RunConfig, settings: Mapping[str, Any], what: str) -> RunConfig:
    """The run with other values at dotted keys; InputError if they do not belong together."""
    whole = dataclasses.asdict(run)
    for key, value in settings.items():
        group = whole
        *parents, last = key.split(".")
        for parent in parents:
            group = group.get(parent)
            if not isinstance(group, dict):
                raise InputError(f"{what}: every key must be a setting, got {key}. Correct it.")
        group[last] = value
    return parse_config(RunConfig, whole, what)


def is_compared(key: str) -> bool:
    """Whether cells of one arm must have the same value of a setting."""
    return (
        key != "seed"
        and key not in OF_THE_MACHINE
        and not key.startswith(GROUPS_OF_THE_MACHINE)
        and key not in ("train.resume", "train.keep_checkpoints", "train.checkpoint_every")
    )
