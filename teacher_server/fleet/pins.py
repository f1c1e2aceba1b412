"""What decides a teacher's answers, as `up` found it: no replica starts with another one's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from protos.fingerprint import digest_file
from protos.teacher_pb2 import Description
from trainer.common.errors import InputError
from trainer.models.frozen import CONFIG_NAME


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Teachers that agree in all of this answer alike, up to rounding."""

    weights_digest: str
    vocabulary_digest: str
    graph_digest: str
    """Empty for a teacher that takes tokens alone."""
    config_digest: str
    """Of config.json, which makes a module of the weights; empty: the folder has none."""
    temperature: float
    dtype: str


def pin_of(described: Description, folder: Path, dtype: str) -> Pin:
    """The pin of the teacher in a folder.

    Args:
        described: its card, or what a replica that loaded it says.
        folder: where it lies.
        dtype: in which it computes; a card has none.
    """
    config = folder / CONFIG_NAME
    return Pin(
        weights_digest=described.weights_digest,
        vocabulary_digest=described.vocabulary_digest,
        graph_digest=described.graph_digest,
        config_digest=digest_file(config) if config.is_file() else "",
        temperature=described.temperature,
        dtype=dtype,
    )


def check_pin(kind: str, folder: str | Path, pinned: Mapping[str, str | float], found: Pin) -> None:
    """Raise InputError if a folder holds another teacher than the fleet's.

    Students would refuse it, while the other replicas can go on without.

    Args:
        kind: of the teacher.
        folder: where it lies.
        pinned: fields of Pin; empty: any teacher will do.
        found: what is there now.
    """
    differences = "; ".join(_differences(pinned, found))
    if differences:
        raise InputError(
            f"the {kind} teacher in {folder} must be the one that the fleet was started with, got "
            f"{differences}. Put that one back, or name the folder that has it: python -m "
            f"teacher_server roll --teacher {kind}=DIR. A folder of its own with other weights "
            "makes that teacher follow, for students to come."
        )


def _differences(pinned: Mapping[str, str | float], found: Pin) -> Iterator[str]:
    values = asdict(found)
    for name, value in pinned.items():
        if values[name] != value:
            yield f"{name} {values[name] or 'none'} instead of {value or 'none'}"
