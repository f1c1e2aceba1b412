"""Check that a resumed run has the settings and the training sources of the run before."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoints.files import CHECKPOINTS_NAME, newest_whole
from trainer.checkpoints.policy import may_change
from trainer.common.atomic import write_json
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config

CONFIG_NAME = "config.yaml"
ORIGIN_NAME = "origin.json"


@dataclass(frozen=True, kw_only=True)
class RunProvenance:
    """What a run learns from, beyond its settings; a resumed run must have the same."""

    vocabulary: str
    examples: str
    """Digest of the training examples, in their order."""
    teachers: dict[str, str]
    """Kind -> weights digest and temperature; empty without teachers."""


def check_same_run(output: Path, config: RunConfig) -> None:
    """Raise ValueError if a setting differs that may not change when a run is resumed."""
    if newest_whole(output / CHECKPOINTS_NAME) is None:
        return
    before = flat_settings(load_config(RunConfig, output / CONFIG_NAME, []))
    for key, value in flat_settings(config).items():
        if before.get(key) != value and not may_change(key):
            raise ValueError(
                f"{key} must be {before.get(key)} to go on with the run in {output}, got {value}. "
                "Name another output, or start over with train.resume=false."
            )


def check_same_provenance(output: Path, provenance: RunProvenance) -> None:
    """Raise ValueError if the run before had other data or other teachers."""
    path = output / ORIGIN_NAME
    if newest_whole(output / CHECKPOINTS_NAME) is None:
        return
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must name the sources of the checkpoint, got no file. "
            "Start over with train.resume=false."
        )
    before = _flat(json.loads(path.read_text()))
    after = _flat(dataclasses.asdict(provenance))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            raise ValueError(
                f"{key} must be {before.get(key)} to go on with the run in {output}, got "
                f"{after.get(key)}. Bring it back, or start over with train.resume=false."
            )


def write_provenance(output: Path, provenance: RunProvenance) -> None:
    """Write origin.json, which `check_same_provenance` compares with."""
    write_json(output / ORIGIN_NAME, dataclasses.asdict(provenance))


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """All settings by their dotted keys."""
    return _flat(dataclasses.asdict(config))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
