"""Whether a run to be resumed is the same run: by its settings, and by what it learns from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoints.files import CHECKPOINTS_NAME, newest_whole
from trainer.common.atomic import write_json
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config

CONFIG_NAME = "config.yaml"
ORIGIN_NAME = "origin.json"
MAY_CHANGE = (
    *("output", "classifier", "teachers.", "watch."),
    *("train.steps", "train.epochs", "train.checkpoint_every", "train.keep_checkpoints"),
    *("train.resume", "train.loss_chunk_size", "train.micro_batch_size"),
    "student.activation_checkpointing",
)
"""Settings that a resumed run may have otherwise: they change no loss of a step done before."""


@dataclass(frozen=True, kw_only=True)
class RunOrigin:
    """What a run learns from, beyond its settings; a resumed run must find it again."""

    vocabulary: str
    examples: str
    """Digest of the training examples, in their order."""
    teachers: dict[str, str]
    """Kind -> weights digest and temperature; empty without teachers."""


def check_same_run(output: Path, config: RunConfig) -> None:
    """Raise ValueError if the run to resume was started with settings that make it another run."""
    if newest_whole(output / CHECKPOINTS_NAME) is None:
        return
    before = flat_settings(load_config(RunConfig, output / CONFIG_NAME, []))
    for key, value in flat_settings(config).items():
        if before.get(key) != value and not key.startswith(MAY_CHANGE):
            raise ValueError(
                f"{key} must be {before.get(key)} to go on with the run in {output}, got {value}. "
                "Name another output, or start over with train.resume=false."
            )


def check_same_origin(output: Path, origin: RunOrigin) -> None:
    """Raise ValueError if the run to resume has learnt from others than it would go on with."""
    path = output / ORIGIN_NAME
    if newest_whole(output / CHECKPOINTS_NAME) is None:
        return
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must tell what the checkpoint was learnt from, got no file. "
            "Start over with train.resume=false."
        )
    before = _flat(json.loads(path.read_text()))
    after = _flat(dataclasses.asdict(origin))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            raise ValueError(
                f"{key} must be {before.get(key)} to go on with the run in {output}, got "
                f"{after.get(key)}. Bring it back, or start over with train.resume=false."
            )


def write_origin(output: Path, origin: RunOrigin) -> None:
    """Write origin.json, which `check_same_origin` compares with."""
    write_json(output / ORIGIN_NAME, dataclasses.asdict(origin))


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """All settings by their dotted keys."""
    return _flat(dataclasses.asdict(config))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
