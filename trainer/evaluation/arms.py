"""The arms of a comparison: students that differ in what an arm declares, and in nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoints.provenance import CONFIG_NAME, flat_settings
from trainer.common.errors import InputError
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config

if TYPE_CHECKING:
    # It imports torch, and those who declare arms do without.
    from trainer.evaluation.run_history import RunHistory

OF_NO_STUDENT = (
    *("output", "distill.", "teachers.", "watch."),
    *("train.resume", "train.keep_checkpoints"),
)
"""Settings that say nothing of a student without teachers; a trailing dot stands for a group."""
PATHS = ("data", "classifier", "item_vectors", "knowledge", "deepspeed", "student.pretrained")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One student of a comparison."""

    name: str
    settings: Mapping[str, Any]
    """What it is trained with instead; every other setting is that of the students beside it."""


UNDISTILLED = Arm(name="undistilled", settings={"distill.gamma": 0.0})
PLAIN = Arm(name="plain", settings={"distill.gamma": 0.0, "item_vectors": None})


def check_arm(distilled: RunConfig, folder: Path, arm: Arm) -> None:
    """Refuse a student that differs from the distilled one in more than its arm declares.

    Raises:
        InputError: naming the setting, and both values.
    """
    found = flat_settings(load_config(RunConfig, folder / CONFIG_NAME, []))
    wanted = {
        key: value
        for key, value in flat_settings(distilled).items()
        if not any(key == it or (it.endswith(".") and key.startswith(it)) for it in OF_NO_STUDENT)
    }
    for key, value in {**wanted, **arm.settings}.items():
        if not _are_same(key, value, found.get(key)):
            declared = ", ".join(f"{name}={_text(it)}" for name, it in arm.settings.items())
            raise InputError(
                f"{key} of the run {folder} must be {_text(value)}, got {_text(found.get(key))}: "
                f"the {arm.name} student has the distilled one's settings but for {declared}. "
                "Train it with these."
            )


def check_steps(distilled: RunHistory, other: RunHistory, patience: int | None) -> None:
    """Refuse runs of unlike length; with `train.patience` the length is a result of the run."""
    steps, found = distilled.end["steps"], other.end["steps"]
    if patience is None and steps != found:
        raise InputError(
            f"the run {other.folder} must have {steps} steps, as the distilled one, got {found}. "
            "Train it as long."
        )


def _are_same(key: str, wanted: Any, found: Any) -> bool:
    if key in PATHS and isinstance(wanted, str) and isinstance(found, str):
        return wanted == found or Path(wanted).resolve() == Path(found).resolve()
    return wanted == found


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
