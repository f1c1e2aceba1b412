"""The kinds of teachers that can be served, by name: how one is loaded from its folder.

A further kind is a plugin: a module with a dictionary SERVED_KINDS of its own, beside the
TEACHER_KINDS that students need (trainer/kinds/table.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from teacher_server.scoring.counters import ReplicaCounters
from trainer.common.errors import InputError
from trainer.kinds.names import BF16, DIALOGUE, FLOAT32, FP16, RECOMMENDATION
from trainer.models.num_layers import check_layers_for

if TYPE_CHECKING:
    import torch

    from teacher_server.scoring.description import Teacher


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a teacher lies on several devices of one replica."""

    check: Callable[[Path, int], None]
    """Raises InputError if the folder's cannot lie on so many; without torch."""
    load: Callable[[Path, Sequence[torch.device], ReplicaCounters, str], Teacher]
    """As of one device; the first is that of the inputs."""


@dataclass(frozen=True, kw_only=True)
class ServedKind:
    """One entry of the table of kinds that can be served."""

    load: Callable[[Path, torch.device, ReplicaCounters, str], Teacher]
    """The frozen teacher of a folder, on a device, in one of `dtypes`; imports torch no earlier
    than when called."""
    dtypes: tuple[str, ...] = (FLOAT32,)
    """Types in which it can compute."""
    spread: Spread | None = None
    """None: on one device alone."""


def _load_dialogue(
    folder: Path, device: torch.device, counters: ReplicaCounters, dtype: str
) -> Teacher:
    from teacher_server.scoring.teachers import DialogueTeacher

    return DialogueTeacher.load(folder, device, counters, dtype)


def _spread_dialogue(
    folder: Path, devices: Sequence[torch.device], counters: ReplicaCounters, dtype: str
) -> Teacher:
    from teacher_server.scoring.teachers import DialogueTeacher

    return DialogueTeacher.load(folder, devices[0], counters, dtype, further=devices[1:])


def _load_recommendation(
    folder: Path, device: torch.device, counters: ReplicaCounters, dtype: str
) -> Teacher:
    from teacher_server.scoring.teachers import RecommendationTeacher

    return RecommendationTeacher.load(folder, device, counters)


# Torch and transformers take seconds and 300 MB: the commands that read this table, and the
# Directory, do without.
SERVED_KINDS: dict[str, ServedKind] = {
    DIALOGUE: ServedKind(
        load=_load_dialogue,
        dtypes=(FLOAT32, BF16, FP16),
        spread=Spread(check=check_layers_for, load=_spread_dialogue),
    ),
    RECOMMENDATION: ServedKind(load=_load_recommendation),
}


def load_teacher(
    kind: str,
    folder: Path,
    device: torch.device,
    *,
    dtype: str = FLOAT32,
    counters: ReplicaCounters | None = None,
    kinds: Mapping[str, ServedKind] = SERVED_KINDS,
    further: Sequence[torch.device] = (),
) -> Teacher:
    """The frozen teacher of a folder, on the device; it adds to the counters' compress_s.

    With further devices its layers spread over all.

    Raises:
        InputError: for a kind that is not in the table, a type that is not the kind's, further
            devices that it cannot use, and as its loader does.
    """
    if kind not in kinds:
        raise InputError(f"kind must be one of {', '.join(kinds)}, got {kind}.")
    check_dtype(kind, dtype, kinds[kind])
    counters = counters or ReplicaCounters()
    if not further:
        return kinds[kind].load(folder, device, counters, dtype)
    spread = checked_spread(kind, folder, 1 + len(further), kinds[kind])
    return spread.load(folder, (device, *further), counters, dtype)


def checked_spread(kind: str, folder: Path, num_gpus: int, served: ServedKind) -> Spread:
    """How the folder's teacher lies on several GPUs; InputError if it cannot lie on so many."""
    if served.spread is None:
        raise InputError(
            f"a replica of {kind} teachers must have at most one GPU, got {num_gpus}. Name those "
            "of each kind: --num-gpus KIND=COUNT[,...]."
        )
    served.spread.check(folder, num_gpus)
    return served.spread


def check_dtype(kind: str, dtype: str, served: ServedKind) -> None:
    """Raise InputError for a type in which teachers of a kind cannot compute."""
    if dtype not in served.dtypes:
        raise InputError(
            f"the dtype of {kind} teachers must be one of {', '.join(served.dtypes)}, got {dtype}."
        )
