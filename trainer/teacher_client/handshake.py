"""Whether a teacher fits a student: its ids, its graph, its inputs, and one teacher per kind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from protos import teacher_pb2
from protos.temperatures import temperature_range
from trainer.common.errors import InputError
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.teacher_kind import TeacherKind


class MetTeachers:
    """The teachers that a client met: of each kind one, on however many replicas."""

    def __init__(
        self,
        kinds: Mapping[str, TeacherKind],
        vocabulary: Vocabulary,
        graph_digest: str,
        *,
        temperatures: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """`temperatures`: the lowest and the highest that will be asked for."""
        self._kinds = kinds
        self._temperatures = temperatures
        self._vocabulary = vocabulary
        self._graph_digest = graph_digest
        self.described: dict[str, teacher_pb2.Description] = {}
        """Latest Description per kind, from a replica or from the cache."""

    def admit(self, described: teacher_pb2.Description, where: str) -> None:
        """Take a teacher in; raises as `check_description` does.

        A request may go to any replica of its kind, so only what all of them can do is used.
        """
        known = self.described.get(described.kind)
        check_description(
            described,
            where,
            self._kinds[described.kind],
            vocabulary=self._vocabulary,
            graph_digest=self._graph_digest,
            known=known,
            temperatures=self._temperatures,
        )
        admitted = teacher_pb2.Description()
        admitted.CopyFrom(described)
        if known is not None:
            shared = [it for it in described.capabilities if it in known.capabilities]
            admitted.capabilities[:] = shared
        self.described[described.kind] = admitted

    def in_order(self) -> dict[str, teacher_pb2.Description]:
        """The same in the order of the table of kinds, once all of them were met."""
        return {kind: self.described[kind] for kind in self._kinds}


def check_description(
    described: teacher_pb2.Description,
    where: str,
    kind: TeacherKind,
    *,
    vocabulary: Vocabulary,
    graph_digest: str,
    known: teacher_pb2.Description | None,
    temperatures: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Refuse a teacher from whose rows a student of this data must not learn.

    Args:
        described: what the teacher says of itself.
        where: names it in an error, e.g. "at host:port".
        kind: what a teacher of its kind must read.
        vocabulary: the student's.
        graph_digest: the student's, for teachers that take entities.
        known: the teacher of this kind that was met first, which must be the same one.
        temperatures: the lowest and the highest that will be asked for.

    Raises:
        InputError: naming what differs, and the remedy.
    """
    _check_vocabulary(described, where, vocabulary)
    _check_inputs(described, where, kind, graph_digest)
    _check_temperatures(described, where, temperatures)
    if known is not None and _identity(known) != _identity(described):
        raise InputError(
            f"every {described.kind} replica must have the weights {name_of(known)}, got "
            f"{name_of(described)} {where}. Serve one teacher at a time."
        )


def _check_vocabulary(
    described: teacher_pb2.Description, where: str, vocabulary: Vocabulary
) -> None:
    ours, theirs = vocabulary.digest, described.vocabulary_digest
    if ours != theirs or described.vocab_size != vocabulary.size:
        raise InputError(
            f"the {described.kind} teacher {where} must have the student's "
            f"vocabulary {ours} ({vocabulary.size} ids), got {theirs} "
            f"({described.vocab_size} ids). Serve teachers fitted on the same prepared data."
        )


def _check_inputs(
    described: teacher_pb2.Description, where: str, kind: TeacherKind, graph_digest: str
) -> None:
    limits = {
        "tokens": described.max_tokens,
        "entities": described.max_entities,
        "words": described.max_words,
    }
    if not limits[kind.reads]:
        raise InputError(
            f"the {described.kind} teacher {where} must take {kind.reads}, got a limit of 0. "
            "Serve it with the same version of this software."
        )
    if described.max_entities and described.graph_digest != graph_digest:
        raise InputError(
            f"the {described.kind} teacher {where} must have the student's graph "
            f"{graph_digest}, got {described.graph_digest}. Serve a teacher fitted on "
            "the same prepared data."
        )


def _check_temperatures(
    described: teacher_pb2.Description, where: str, asked: tuple[float, float]
) -> None:
    low, high = temperature_range(described)
    # As they are sent: in float32.
    if not (low <= np.float32(asked[0]) and np.float32(asked[1]) <= high):
        wanted = f"{asked[0]:g}" if asked[0] == asked[1] else f"{asked[0]:g} to {asked[1]:g}"
        raise InputError(
            f"distill.temperature must be in [{low:g}, {high:g}] for the {described.kind} teacher "
            f"{where}, got {wanted}. Set it within, or serve a teacher that takes more."
        )


def name_of(described: teacher_pb2.Description) -> str:
    """Which teacher it is, for people: two that answer differently have two names."""
    return (
        f"{described.weights_digest} in {described.dtype or 'a dtype that it does not name'} at "
        f"temperature {described.temperature:g}"
    )


def _identity(described: teacher_pb2.Description) -> tuple[str, float, str]:
    return described.weights_digest, described.temperature, described.dtype
