"""The cells of an ablation, each as the settings of one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos.fingerprint import digest_strings
from trainer.ablation.arms import ANSWERS, OF_TEACHERS, Table, table_of
from trainer.ablation.config import AblationConfig, TeacherPair
from trainer.checkpoints.provenance import flat_settings
from trainer.common.errors import InputError
from trainer.config.run import RunConfig
from trainer.config.yaml_file import parse_config
from trainer.evaluation.arms import Arm

OF_THE_MACHINE = ("output", "data", "classifier", "item_vectors", "knowledge", "deepspeed")
"""Paths, of which a cell keeps what lies there by its digest."""
GROUPS_OF_THE_MACHINE = ("teachers.", "watch.")


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How a student is let answer: options of `trainer.evaluation.respond`."""

    decoding: str = "greedy"
    top_p: float | None = None

    @property
    def name(self) -> str:
        """As files of its answers are told apart; empty for greedy ones."""
        return "" if self.decoding == "greedy" else f"{self.decoding}-{self.top_p}"


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One student to be trained and scored."""

    table: Table
    arm: Arm
    seed: int
    config: RunConfig
    """Whole; its `output` is the run's folder, the same in all tables that train it."""
    teachers: TeacherPair
    answering: Answering = field(default_factory=Answering)

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
    settings = {**config.tables[table.name], **arm.settings, "seed": seed}
    trained = {key: it for key, it in settings.items() if not key.startswith(ANSWERS)}
    teachers = _teachers_of(config, arm)
    assert teachers is not None, "arms without teachers are left out"
    run = with_settings(config.run, trained, f"{table.name} {arm.name}")
    run = _with_whole_paths(run)
    output = Path(config.run.output).resolve() / "students" / _digest(run, teachers)
    return PlannedCell(
        table=table,
        arm=arm,
        seed=seed,
        config=dataclasses.replace(run, output=str(output)),
        teachers=teachers,
        answering=Answering(
            **{
                key.removeprefix(ANSWERS): value
                for key, value in settings.items()
                if key.startswith(ANSWERS)
            }
        ),
    )


def _with_whole_paths(run: RunConfig) -> RunConfig:
    """With paths that hold wherever the command of a stage runs."""
    names = ("data", "classifier", "item_vectors", "knowledge", "deepspeed")
    given = {name: getattr(run, name) for name in names}
    paths = {name: str(Path(it).resolve()) for name, it in given.items() if it is not None}
    return dataclasses.replace(run, **paths)


def _digest(run: RunConfig, teachers: TeacherPair) -> str:
    """Of all that decides what a student learns: a student of several tables is trained once."""
    settings = {
        key: value
        for key, value in flat_settings(run).items()
        if is_compared(key) or key == "seed" or (key in OF_THE_MACHINE and key != "output")
    }
    pair = dataclasses.astuple(teachers) if run.distill.gamma else ()
    return digest_strings([f"{key}={settings[key]}" for key in sorted(settings)], pair)[:12]


def _teachers_of(config: AblationConfig, arm: Arm) -> TeacherPair | None:
    """The teachers of an arm; None where the config does not have those that it is named by."""
    name = arm.name.removeprefix(OF_TEACHERS)
    if arm.settings.get("action_tokens") and config.token_teachers is not None:
        return config.token_teachers
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
