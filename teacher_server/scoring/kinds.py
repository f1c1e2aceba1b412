"""The kinds of teachers that can be served, by name: how one is loaded from its folder.

A further kind is a plugin: a module with a dictionary SERVED_KINDS of its own, beside the
TEACHER_KINDS that students need (trainer/kinds/table.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from teacher_server.scoring.counters import ReplicaCounters
from trainer.common.errors import InputError
from trainer.kinds.names import DIALOGUE, RECOMMENDATION

if TYPE_CHECKING:
    import torch

    from teacher_server.scoring.description import Teacher


@dataclass(frozen=True, kw_only=True)
class ServedKind:
    """One entry of the table of kinds that can be served."""

    load: Callable[[Path, torch.device, ReplicaCounters], Teacher]
    """The frozen teacher of a folder, on a device; imports torch no earlier than when called."""


def _load_dialogue(folder: Path, device: torch.device, counters: ReplicaCounters) -> Teacher:
    from teacher_server.scoring.teachers import DialogueTeacher

    return DialogueTeacher.load(folder, device, counters)


def _load_recommendation(folder: Path, device: torch.device, counters: ReplicaCounters) -> Teacher:
    from teacher_server.scoring.teachers import RecommendationTeacher

    return RecommendationTeacher.load(folder, device, counters)


# Torch and transformers take seconds and 300 MB: the commands that read this table, and the
# Directory, do without.
SERVED_KINDS: dict[str, ServedKind] = {
    DIALOGUE: ServedKind(load=_load_dialogue),
    RECOMMENDATION: ServedKind(load=_load_recommendation),
}


def load_teacher(
    kind: str,
    folder: Path,
    device: torch.device,
    *,
    counters: ReplicaCounters | None = None,
    kinds: Mapping[str, ServedKind] = SERVED_KINDS,
) -> Teacher:
    """The frozen teacher of a folder, on the device; it adds to the counters' compress_s.

    Raises:
        InputError: for a kind that is not in the table, and as its loader does.
    """
    if kind not in kinds:
        raise InputError(f"kind must be one of {', '.join(kinds)}, got {kind}.")
    return kinds[kind].load(folder, device, counters or ReplicaCounters())
