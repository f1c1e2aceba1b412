"""Teachers by name: several of one kind, whose rows are mixed with fixed weights."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from protos.limits import KIND_NAME
from trainer.common.errors import InputError

# Thirds have endless digits; what is written for them sums to about 1, and is scaled to it.
SUM_TOLERANCE = 1e-3
KEY = "distill.teachers"


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """How the rows of one teacher are cut, where it is not as its kind says."""

    top_k: int | None = None
    """Entries kept of a row at most, 0: all; with tail sampled the number of draws."""
    top_p: float | None = None
    """A row is cut where its kept mass reaches this; 1: by top_k alone."""


@dataclass(frozen=True, kw_only=True)
class NamedTeacher:
    """One of the teachers that a run learns from."""

    kind: str
    """Its kind; a kind of which no teacher is named has one, whichever the fleet serves."""
    weights_digest: str = ""
    """The first digits of its weights' digest, as `python -m teacher_server status --json` prints
    it: which replicas are its. Needed where a kind has several teachers."""
    folder: str | None = None
    """Or the frozen model's folder, whose digest is read at the start."""
    weight: float | None = None
    """Its part of its kind's mixture; those of a kind sum to 1. None, of all: equal parts."""
    cut: CutConfig = field(default_factory=CutConfig)


def check_named_teachers(
    teachers: Mapping[str, NamedTeacher], *, max_top_k: int, draws: bool
) -> None:
    """Raise InputError, naming the setting, unless the teachers can be told apart and mixed.

    Args:
        teachers: by name.
        max_top_k: the highest top_k.
        draws: whether rows are drawn, so that no top_k may be 0.
    """
    for name, teacher in teachers.items():
        _check_one(name, teacher, max_top_k=max_top_k, lowest_top_k=int(draws))
    for kind in dict.fromkeys(teacher.kind for teacher in teachers.values()):
        of_kind = {name: it for name, it in teachers.items() if it.kind == kind}
        _check_weights(kind, of_kind)
        _check_apart(of_kind)


def mixture_of(teachers: Mapping[str, NamedTeacher], kind: str) -> dict[str, float]:
    """Name -> its part of a kind's mixture, by name; these parts sum to 1.

    A kind without names has one teacher, of the kind's own name.
    """
    weights = {
        # Sorted: how sums are rounded must not depend on the order in a file.
        name: 1.0 if it.weight is None else it.weight
        for name, it in sorted(teachers.items())
        if it.kind == kind
    }
    if not weights:
        return {kind: 1.0}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _check_one(name: str, teacher: NamedTeacher, *, max_top_k: int, lowest_top_k: int) -> None:
    key, cut = f"{KEY}.{name}", teacher.cut
    if not KIND_NAME.fullmatch(name):
        raise InputError(
            f"{KEY} must be named by up to 64 of a-z, 0-9, _ and -, a letter first, got {name!r}."
        )
    if teacher.weights_digest and teacher.folder is not None:
        raise InputError(
            f"{key}.folder must be null beside weights_digest, got {teacher.folder} and "
            f"{teacher.weights_digest}. Leave out one of the two."
        )
    if teacher.weight is not None and not 0.0 < teacher.weight <= 1.0:
        raise InputError(f"{key}.weight must be in (0, 1], got {teacher.weight}.")
    if cut.top_k is not None and not lowest_top_k <= cut.top_k <= max_top_k:
        raise InputError(
            f"{key}.cut.top_k must be in [{lowest_top_k}, {max_top_k}], got {cut.top_k}."
        )
    if cut.top_p is not None and not 0.0 < cut.top_p <= 1.0:
        raise InputError(f"{key}.cut.top_p must be in (0, 1], got {cut.top_p}.")
    if cut.top_p is not None and lowest_top_k:
        raise InputError(
            f"{key}.cut.top_p must be null with distill.tail sampled, which draws top_k entries, "
            f"got {cut.top_p}."
        )


def _check_weights(kind: str, of_kind: Mapping[str, NamedTeacher]) -> None:
    """All weights of a kind are left out, or they sum to 1."""
    given = {name: it.weight for name, it in of_kind.items() if it.weight is not None}
    if not given:
        return
    if len(given) < len(of_kind) or abs(sum(given.values()) - 1.0) > SUM_TOLERANCE:
        told = ", ".join(f"{name}: {it.weight}" for name, it in of_kind.items())
        raise InputError(
            f"{KEY} must have weights that sum to 1 over the {kind} teachers, got {told}. Leave "
            "all of them out for equal parts."
        )


def _check_apart(of_kind: Mapping[str, NamedTeacher]) -> None:
    """Whatever weights a replica has, it is of one of them at most."""
    if len(of_kind) < 2:
        return
    for name, teacher in of_kind.items():
        if not teacher.weights_digest and teacher.folder is None:
            raise InputError(
                f"{KEY}.{name} must have a weights_digest or a folder beside other {teacher.kind} "
                "teachers, got neither. python -m teacher_server status --json prints digests."
            )
    known = [(name, it.weights_digest) for name, it in of_kind.items() if it.weights_digest]
    for (name, one), (other, two) in itertools.combinations(known, 2):
        if one.startswith(two) or two.startswith(one):
            raise InputError(
                f"{KEY}.{other}.weights_digest must tell it from {name}, got {two} and {one}. "
                "Give more digits, or name each teacher once."
            )
