"""Which checkpoint is the newest whole one.

DeepSpeed writes a checkpoint as a folder of files, one or more per rank; a crash can leave it
torn. So `newest.json` names the newest checkpoint and is replaced atomically, after all ranks have
written theirs: what it does not name is never loaded.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.atomic import write_json
from trainer.config import RunConfig
from trainer.config_file import load_config

POINTER_NAME = "newest.json"
TAG_PREFIX = "step-"
CONFIG_NAME = "config.yaml"
ORIGIN_NAME = "origin.json"
CHECKPOINTS_NAME = "checkpoints"
MAY_CHANGE = (
    *("output", "classifier", "teachers.", "watch."),
    *("train.steps", "train.epochs", "train.checkpoint_every"),
    *("train.resume", "train.loss_chunk_size"),
)
"""Settings that a resumed run may have otherwise: they change no loss of a step done before."""


@dataclass(frozen=True, kw_only=True)
class CheckpointPointer:
    """The newest whole checkpoint of a run."""

    tag: str
    """Folder below checkpoints/."""
    step: int
    """Optimiser steps done; the data goes on from here."""


@dataclass(frozen=True, kw_only=True)
class RunOrigin:
    """What a run learns from, beyond its settings; a resumed run must find it again."""

    ranks: int
    vocabulary: str
    examples: str
    """Digest of the training examples, in their order."""
    teachers: dict[str, str]
    """Kind -> weights digest and temperature; empty without teachers."""


def tag_of(step: int) -> str:
    """Folder name of the checkpoint after `step` optimiser steps."""
    return f"{TAG_PREFIX}{step:08d}"


def read_pointer(folder: Path) -> CheckpointPointer | None:
    """The newest whole checkpoint below `folder`, or None if there is none yet.

    Raises:
        FileNotFoundError: if the folder that it names is gone.
    """
    path = folder / POINTER_NAME
    if not path.is_file():
        return None
    try:
        pointer = CheckpointPointer(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} must name a checkpoint, got: {error}.") from error
    if not (folder / pointer.tag).is_dir():
        raise FileNotFoundError(
            f"{folder / pointer.tag} must be the newest checkpoint, got nothing there. "
            f"Restore it, or remove {path} to start from the beginning."
        )
    return pointer


def commit(folder: Path, step: int) -> None:
    """Name the checkpoint of `step` as the newest and remove all others, torn ones too.

    To be called on one rank, after every rank has written its files.
    """
    write_json(folder / POINTER_NAME, {"tag": tag_of(step), "step": step})
    for other in folder.glob(f"{TAG_PREFIX}*"):
        if other.name != tag_of(step):
            shutil.rmtree(other)


def forget(folder: Path) -> None:
    """Remove all checkpoints, the pointer first: a crash in between leaves none that is named."""
    (folder / POINTER_NAME).unlink(missing_ok=True)
    if folder.is_dir():
        shutil.rmtree(folder)


def check_same_run(output: Path, config: RunConfig) -> None:
    """Raise ValueError if the run to resume was started with settings that make it another run."""
    if read_pointer(output / CHECKPOINTS_NAME) is None:
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
    if read_pointer(output / CHECKPOINTS_NAME) is None:
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
