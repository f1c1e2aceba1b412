"""The teachers that a run learns from, by name: one of a kind, or an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import CutConfig
from trainer.kinds.table import TEACHER_KINDS, asked_kinds
from trainer.kinds.teacher_kind import RowCut, TeacherKind


@dataclass(frozen=True, kw_only=True)
class AskedTeacher:
    """One teacher that is asked."""

    kind_name: str
    kind: TeacherKind
    """With the teacher's own cut."""
    weight: float
    """Its part of its kind's mixture; those of a kind sum to 1."""
    weights_digest: str = ""
    """How the digest of its weights begins; empty: any teacher of its kind."""

    def is_it(self, kind: str, weights_digest: str) -> bool:
        """Whether this is a teacher of a kind and of weights."""
        return kind == self.kind_name and weights_digest.startswith(self.weights_digest)


def asked_teachers(
    distill: DistillConfig, kinds: Mapping[str, TeacherKind] = TEACHER_KINDS
) -> dict[str, AskedTeacher]:
    """Name -> teacher, of those of `kinds` that have any weight, in the order of the table.

    A kind of which `distill.teachers` names none has one teacher, of the kind's own name.

    Raises:
        InputError: as `asked_kinds`.
    """
    asked = asked_kinds(distill, kinds)
    return {
        name: _asked(name, kind_name, kind, weight, distill)
        for kind_name, kind in asked.items()
        for name, weight in distill.mixture(kind_name).items()
    }


def names_of(kind: str, teachers: Mapping[str, AskedTeacher]) -> list[str]:
    """The names of a kind's teachers."""
    return [name for name, teacher in teachers.items() if teacher.kind_name == kind]


def _asked(
    name: str, kind_name: str, kind: TeacherKind, weight: float, distill: DistillConfig
) -> AskedTeacher:
    named = distill.teachers.get(name)
    if named is None:
        return AskedTeacher(kind_name=kind_name, kind=kind, weight=weight)
    assert named.folder is None, "with_weights_digests has read it"
    return AskedTeacher(
        kind_name=kind_name,
        kind=replace(kind, cut=lambda config: _cut(named.cut, kind.cut(config))),
        weight=weight,
        weights_digest=named.weights_digest,
    )


def _cut(own: CutConfig, of_kind: RowCut) -> RowCut:
    """The cut of a kind, but for what a teacher says itself."""
    return RowCut(
        of_kind.top_k if own.top_k is None else own.top_k,
        of_kind.top_p if own.top_p is None else own.top_p,
    )
