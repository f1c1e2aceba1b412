"""The settings of an ablation: which tables, from which run and teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict

from trainer.common.errors import InputError
from trainer.config.checks import SETTINGS
from trainer.config.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class TeacherPair:
    """A frozen teacher of each kind."""

    dialogue: str
    """Folder of the dialogue teacher."""
    recommendation: str
    """Folder of the recommendation teacher."""


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """One `python -m trainer.ablate`."""

    __pydantic_config__: ClassVar[ConfigDict] = SETTINGS

    run: RunConfig
    """What all cells are trained with, but for what their table and arm say. `output` is the folder
    of the runs, the targets and the logs."""
    teachers: TeacherPair
    """Of all cells, whatever their seed."""
    tables: Mapping[str, Mapping[str, Any]]
    """Name of a table -> settings that its cells share, by dotted keys, beside those of `run`."""
    token_teachers: TeacherPair | None = None
    """Of the arms with the special token, whose dialogue teacher may have been fitted with it;
    None: `teachers`."""
    weaker: Mapping[str, TeacherPair] = field(default_factory=dict)
    """Name -> teachers of the table `teacher`, beside `teachers`."""

    def __post_init__(self) -> None:
        if not self.tables:
            raise InputError("tables must name a table, got none. Name one: {paper: {}}.")
        if self.run.distill.gamma == 0.0:
            raise InputError(
                "run.distill.gamma must be above 0, got 0: it is the arms' with teachers. The arm "
                "vanilla has 0 by itself."
            )
