"""The kinds of teachers, and which of them a run learns from.

A further kind is a plugin: a module with a dictionary TEACHER_KINDS of its own, and with one of
SERVED_KINDS (teacher_server/scoring/kinds.py) for the replicas.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.common.errors import InputError
from trainer.common.plugins import with_plugins
from trainer.config.distill import DistillConfig
from trainer.config.run import RunConfig
from trainer.data.model_input import dialogue_input, recommendation_input
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.kinds.teacher_kind import RowCut, TeacherKind

TEACHER_KINDS: dict[str, TeacherKind] = {
    DIALOGUE: TeacherKind(
        reads="tokens",
        to_input=dialogue_input,
        rows_per="position",
        share=lambda gate_P: 1.0 - gate_P,
    ),
    RECOMMENDATION: TeacherKind(
        reads="entities",
        to_input=recommendation_input,
        rows_per="example",
        support=lambda vocab_size, items: items,
        cut=lambda distill: RowCut(distill.recommendation_top_k, distill.recommendation_top_p),
        share=lambda gate_P: gate_P,
    ),
}


def known_kinds(config: RunConfig) -> dict[str, TeacherKind]:
    """All kinds that a run knows: ours, and those of its plugins.

    Raises:
        InputError: if `distill.teachers` has a teacher of none of them, or by the name of another.
    """
    kinds = with_plugins(TEACHER_KINDS, config.plugins, "TEACHER_KINDS")
    _check_names(config.distill, kinds)
    return kinds


def asked_kinds(
    distill: DistillConfig, kinds: Mapping[str, TeacherKind] = TEACHER_KINDS
) -> dict[str, TeacherKind]:
    """Those of `kinds` that have any weight in the mixture, in the order of the table.

    Raises:
        InputError: if `distill.shares` names another kind than those that have no other share, or
            not that of a named teacher.
    """
    shared = [name for name, kind in kinds.items() if kind.share is None]
    for name in distill.shares:
        if name not in shared:
            weighed = " and ".join(other for other in kinds if other not in shared)
            raise InputError(
                f"distill.shares must name kinds of teachers among: {', '.join(shared) or 'none'} "
                f"(lambda sets the shares of {weighed}), got {name}. Add its module to plugins."
            )
    for name, teacher in distill.teachers.items():
        if teacher.kind in shared and teacher.kind not in distill.shares:
            raise InputError(
                f"distill.shares must name {teacher.kind}, the kind of distill.teachers.{name}, "
                f"got {', '.join(distill.shares) or 'none'}. Give it a share, or leave the teacher "
                "out."
            )
    if distill.gamma == 0.0:
        return {}
    return {name: kind for name, kind in kinds.items() if _has_weight(name, kind, distill)}


def _check_names(distill: DistillConfig, kinds: Mapping[str, TeacherKind]) -> None:
    """A name stands for one teacher: a kind without named ones has one of the kind's name."""
    for name, teacher in distill.teachers.items():
        key = f"distill.teachers.{name}"
        if teacher.kind not in kinds:
            raise InputError(
                f"{key}.kind must be one of {', '.join(kinds)}, got {teacher.kind}. Add the module "
                "of another kind to plugins."
            )
        if name in kinds and name != teacher.kind:
            raise InputError(
                f"{key} must not have the name of another kind, got one of {teacher.kind}. Name it "
                "otherwise."
            )


def share_P(name: str, kind: TeacherKind, gate_P: Tensor, distill: DistillConfig) -> Tensor | float:
    """A kind's part of the teachers' weight at every position; over all kinds it sums to 1."""
    if kind.share is None:
        return distill.shares[name]
    return (1.0 - sum(distill.shares.values())) * kind.share(gate_P)


def _has_weight(name: str, kind: TeacherKind, distill: DistillConfig) -> bool:
    if kind.share is None:
        return name in distill.shares
    if distill.fixed_lambda is None:
        return True
    return float(kind.share(torch.tensor(distill.fixed_lambda))) > 0.0
