"""What a run learns from: the same on all its ranks, and the same when it is resumed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos.fingerprint import digest_strings
from trainer.checkpoints.files import CHECKPOINTS_NAME, newest_whole
from trainer.checkpoints.policy import may_change, may_differ_between_ranks
from trainer.common.atomic import write_json
from trainer.common.errors import InputError, MissingError
from trainer.common.text_files import read_json_object
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config

CONFIG_NAME = "config.yaml"
ORIGIN_NAME = "origin.json"
# Of this file and of the settings beside it. A number that is not ours is refused.
FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class RunProvenance:
    """What a run learns from, beyond its settings; a resumed run must have the same."""

    vocabulary: str
    graphs: str
    examples: str
    """Digest of the training examples, in their order."""
    valid: str = ""
    """Likewise of those that choose the best checkpoint; empty: none do."""
    weights: dict[str, str] = field(default_factory=dict)
    """Setting that names a model to start from -> digest of its weights."""
    deepspeed: str = ""
    """Digest of the user's own DeepSpeed config; empty: there is none."""
    teachers: dict[str, str] = field(default_factory=dict)
    """Name of a teacher (its kind's, if it has no other) -> weights digest and temperature; empty
    without teachers."""


def check_same_run(output: Path, config: RunConfig) -> None:
    """Raise InputError if a setting differs that may not change when a run is resumed."""
    if newest_whole(output / CHECKPOINTS_NAME) is None:
        return
    _read_origin(output)
    before = flat_settings(load_config(RunConfig, output / CONFIG_NAME, []))
    after = flat_settings(config)
    # Of both: a teacher may have lost its name since.
    for key in {**after, **before}:
        if before.get(key) != after.get(key) and not may_change(key):
            raise InputError(
                f"{key} must be {before.get(key)} to go on with the run in {output}, got "
                f"{after.get(key)}. Name another output, or start over with train.resume=false."
            )


def teachers_before(output: Path, *, resume: bool) -> dict[str, str]:
    """Name -> the teacher of the run that is gone on with; empty if none is.

    Raises as `check_same_provenance` does if the file beside the checkpoints is gone or broken.
    """
    if not resume or newest_whole(output / CHECKPOINTS_NAME) is None:
        return {}
    teachers = _read_origin(output).get("teachers")
    if not isinstance(teachers, dict):
        return {}  # Broken; `check_same_provenance` says so.
    return {name: str(identity) for name, identity in teachers.items()}


def check_same_provenance(output: Path, provenance: RunProvenance) -> None:
    """Raise InputError if the run before had other data or other teachers."""
    if newest_whole(output / CHECKPOINTS_NAME) is None:
        return
    before = _flat(_read_origin(output))
    after = _flat(dataclasses.asdict(provenance))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            raise InputError(
                f"{key} must be {before.get(key)} to go on with the run in {output}, got "
                f"{after.get(key)}. Bring it back, or start over with train.resume=false."
            )


def shared_by_ranks(config: RunConfig, provenance: RunProvenance) -> dict[str, Any]:
    """Name -> value of all that must be the same on every rank of a run, as JSON can hold it."""
    settings = flat_settings(config)
    shared = {key: it for key, it in settings.items() if not may_differ_between_ranks(key)}
    return {**shared, **_flat(dataclasses.asdict(provenance)), "code of trainer": digest_code()}


def digest_code() -> str:
    """Digest of the source of this package and of protos, by relative path."""
    root = Path(__file__).parents[2]
    paths = sorted(it for name in ("trainer", "protos") for it in (root / name).rglob("*.py"))
    return digest_strings(
        [it.relative_to(root).as_posix() for it in paths], [it.read_text() for it in paths]
    )


def write_provenance(output: Path, provenance: RunProvenance) -> None:
    """Write origin.json, which `check_same_provenance` compares with."""
    write_json(output / ORIGIN_NAME, {"format": FORMAT, **dataclasses.asdict(provenance)})


def _read_origin(output: Path) -> dict[str, Any]:
    """What `write_provenance` wrote beside the checkpoints, without the format."""
    path = output / ORIGIN_NAME
    remedy = "Start over with train.resume=false, or name another output."
    if not path.is_file():
        raise MissingError(f"{path} must name the sources of the checkpoint, got no file. {remedy}")
    origin = read_json_object(path, remedy=remedy)
    found = origin.pop("format", None)
    if found != FORMAT:
        raise InputError(
            f"{path} must have format {FORMAT}, got {found}: another version of this trainer wrote "
            f"the checkpoints. {remedy}"
        )
    return origin


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """All settings by their dotted keys."""
    return _flat(dataclasses.asdict(config))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
