"""Whether a teacher fits a student: its contract, ids, graph and inputs; one teacher per name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from protos import teacher_pb2, version
from protos.temperatures import temperature_range
from trainer.common.errors import InputError
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.asked import AskedTeacher, names_of
from trainer.kinds.teacher_kind import TeacherKind


class Misfit(InputError):
    """A replica that a run must not learn from; another one of its kind may fit."""


class MetTeachers:
    """The teachers that a client met: of each name one, on however many replicas."""

    def __init__(
        self,
        teachers: Mapping[str, AskedTeacher],
        vocabulary: Vocabulary,
        graph_digest: str,
        *,
        held: Mapping[str, str],
        temperatures: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """What fits.

        Args:
            teachers: that are asked, by name.
            vocabulary: the student's.
            graph_digest: the student's.
            held: name -> the one teacher that fits, by `name_of`; of others the first that is met.
            temperatures: the lowest and the highest that will be asked for.
        """
        self._teachers = teachers
        self._temperatures = temperatures
        self._vocabulary = vocabulary
        self._graph_digest = graph_digest
        self._held = dict(held)
        self._fitting: dict[str, dict[str, teacher_pb2.Description]] = {it: {} for it in teachers}
        self._gone: set[str] = set()
        self._answered: set[str] = set()
        self.described: dict[str, teacher_pb2.Description] = {}
        """Latest Description per name, from a replica or from the cache."""

    @property
    def kind_of(self) -> dict[str, str]:
        """Name of each teacher that is asked -> its kind."""
        return {name: teacher.kind_name for name, teacher in self._teachers.items()}

    def admit(self, described: teacher_pb2.Description, where: str) -> str:
        """Take a teacher in; its name. Raises as `check_description` does.

        A request may go to any replica of its name, so only what all that fit and are not gone can
        do is used.
        """
        name = self.check(described, where)
        fitting = self._fitting[name]
        fitting.pop(described.replica_id, None)
        fitting[described.replica_id] = described
        self.described[name] = _shared(fitting)
        return name

    def check(self, described: teacher_pb2.Description, where: str) -> str:
        """Refuse a teacher that does not fit; its name. Raises as `check_description` does."""
        name = self._find(described, where)
        check_description(
            described,
            where,
            self._teachers[name].kind,
            vocabulary=self._vocabulary,
            graph_digest=self._graph_digest,
            known=self.described.get(name),
            held=self._held.get(name, ""),
            temperatures=self._temperatures,
        )
        return name

    def names(self, endpoint: teacher_pb2.Endpoint) -> list[str]:
        """The teachers that a replica may be: the one that it is, once it was met or says so."""
        of_kind = names_of(endpoint.kind, self._teachers)
        met = [it for it in of_kind if endpoint.replica_id in self._fitting[it]]
        digest = endpoint.weights_digest
        told = [it for it in of_kind if digest and self._teachers[it].is_it(endpoint.kind, digest)]
        return met or told or of_kind

    def is_other(self, name: str, endpoint: teacher_pb2.Endpoint) -> bool:
        """Whether a replica says that it has other weights than this teacher's, which was met.

        All ranks of a run say so of the same replicas, so their choices of the rest are balanced.
        What a replica said itself in a handshake goes before its lease.
        """
        fitting, told = self._fitting[name], endpoint.weights_digest
        if not told or not fitting or endpoint.replica_id in fitting:
            return False
        return all(told != it.weights_digest for it in fitting.values())

    def unmet(self, kind: str) -> list[str]:
        """Those of a kind that were not met yet."""
        return [name for name in names_of(kind, self._teachers) if not self.has_met(name)]

    def drop(self, replica_id: str) -> None:
        """Forget a replica that fits by its own word and yet refused this student."""
        for name, fitting in self._fitting.items():
            if fitting.pop(replica_id, None) is not None and fitting:
                self.described[name] = _shared(fitting)

    def on_gone(self, replica_id: str) -> None:
        """A replica that fits is listed no more: requests need not suit it, and it was met."""
        for name, fitting in self._fitting.items():
            if fitting.pop(replica_id, None) is not None:
                self._gone.add(name)
                if fitting:
                    self.described[name] = _shared(fitting)

    def note_answer(self, name: str) -> None:
        """Rows of this teacher came: that no replica fits any more is no mistake of a command."""
        self._answered.add(name)

    def has_met(self, name: str) -> bool:
        """Whether this teacher fits, or did: on a replica, in the cache, or by its rows."""
        return bool(self._fitting[name]) or name in self._gone | self._answered

    def may_learn_from(self, endpoint: teacher_pb2.Endpoint) -> bool:
        """Whether a listed replica is for this run.

        One that retires is for the runs that have its teacher already: named by its weights, held
        from a run before or from another rank, or met.
        """
        if not endpoint.retiring:
            return True
        return any(self._has(it, endpoint.weights_digest) for it in self.names(endpoint))

    def _has(self, name: str, weights_digest: str) -> bool:
        named = self._teachers[name].weights_digest
        if weights_digest and named:
            return weights_digest.startswith(named)
        known = self.described.get(name)
        held = self._held.get(name, "") or (name_of(known) if known else "")
        return bool(held) and (not weights_digest or held.startswith(f"{weights_digest} in "))

    def in_order(self) -> dict[str, teacher_pb2.Description]:
        """The same in the order of the table of kinds, once all of them were met."""
        return {name: self.described[name] for name in self._teachers}

    def _find(self, described: teacher_pb2.Description, where: str) -> str:
        kind, digest = described.kind, described.weights_digest
        for name, teacher in self._teachers.items():
            if teacher.is_it(kind, digest):
                return name
        wanted = [
            f"{it} {self._teachers[it].weights_digest}" for it in names_of(kind, self._teachers)
        ]
        raise Misfit(
            f"every {kind} replica of this run must have the weights of one of distill.teachers "
            f"({', '.join(wanted)}), got {digest} {where}. Name it there, or leave it out of the "
            "fleet."
        )


def check_description(
    described: teacher_pb2.Description,
    where: str,
    kind: TeacherKind,
    *,
    vocabulary: Vocabulary,
    graph_digest: str,
    known: teacher_pb2.Description | None,
    held: str = "",
    temperatures: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Refuse a teacher from whose rows a student of this data must not learn.

    Args:
        described: what the teacher says of itself.
        where: names it in an error, e.g. "at host:port".
        kind: what a teacher of its kind must read.
        vocabulary: the student's.
        graph_digest: the student's, for teachers that take entities.
        known: the teacher of this name that was met first, which must be the same one.
        held: the name of the only one to take, by `name_of`; empty: any.
        temperatures: the lowest and the highest that will be asked for.

    Raises:
        Misfit: naming what differs, and the remedy.
    """
    _check_version(described, where)
    _check_vocabulary(described, where, vocabulary)
    _check_inputs(described, where, kind, graph_digest)
    _check_temperatures(described, where, temperatures)
    _check_same_teacher(described, where, known, held)


def _check_version(described: teacher_pb2.Description, where: str) -> None:
    oldest, newest = described.oldest_wire_version, described.wire_version
    if not version.common_version(oldest, newest):
        ours = version.versions_text(version.OLDEST_WIRE_VERSION, version.WIRE_VERSION)
        raise Misfit(
            f"the {described.kind} teacher {where} must speak wire version {ours}, got "
            f"{version.versions_text(oldest, newest)}. Run releases that share a version on both "
            "ends."
        )


def _check_same_teacher(
    described: teacher_pb2.Description,
    where: str,
    known: teacher_pb2.Description | None,
    held: str,
) -> None:
    name = name_of(described)
    is_other = known is not None and _identity(known) != _identity(described)
    if is_other or held not in ("", name):
        wanted = held if known is None else name_of(known)
        raise Misfit(
            f"every {described.kind} replica of this run must have the weights {wanted}, got "
            f"{name} {where}. Serve one teacher at a time, or name those that are meant "
            "(distill.teachers); for another one start over (train.resume=false)."
        )


def _check_vocabulary(
    described: teacher_pb2.Description, where: str, vocabulary: Vocabulary
) -> None:
    ours, theirs = vocabulary.digest, described.vocabulary_digest
    if ours != theirs or described.vocab_size != vocabulary.size:
        raise Misfit(
            f"the {described.kind} teacher {where} must have the student's "
            f"vocabulary {ours} ({vocabulary.size} ids), got {theirs} "
            f"({described.vocab_size} ids){_differences(described, vocabulary)}. Serve teachers "
            "fitted on the same prepared data."
        )


def _differences(described: teacher_pb2.Description, vocabulary: Vocabulary) -> str:
    """Which parts of a vocabulary differ, as the end of a sentence; empty if it cannot be told."""
    if not (described.catalogue_digest and described.text_digest):
        return ""
    parts = {
        f"the catalogue of items ({vocabulary.num_items} here, {described.num_items} there)": (
            described.catalogue_digest != vocabulary.catalogue_digest
        ),
        "the text rules": described.text_digest != vocabulary.text_digest,
    }
    # The base tokens have no digest of their own: they differ where nothing else does.
    tokens = (vocabulary.first_item_id, described.first_item_id)
    sizes = f"the base vocabulary ({tokens[0]} tokens here, {tokens[1]} there)"
    parts[sizes] = tokens[0] != tokens[1] or not any(parts.values())
    return f", which differs in {' and '.join(name for name, other in parts.items() if other)}"


def _check_inputs(
    described: teacher_pb2.Description, where: str, kind: TeacherKind, graph_digest: str
) -> None:
    limits = {
        "tokens": described.max_tokens,
        "entities": described.max_entities,
        "words": described.max_words,
    }
    if not limits[kind.reads]:
        raise Misfit(
            f"the {described.kind} teacher {where} must take {kind.reads}, got a limit of 0. "
            "Serve it with the same version of this software."
        )
    if described.max_entities and described.graph_digest != graph_digest:
        raise Misfit(
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
        raise Misfit(
            f"distill.temperature must be in [{low:g}, {high:g}] for the {described.kind} teacher "
            f"{where}, got {wanted}. Set it within, or serve a teacher that takes more."
        )


def name_of(described: teacher_pb2.Description) -> str:
    """Which teacher it is, for people: two that answer differently have two names."""
    return (
        f"{described.weights_digest} in {described.dtype or 'a dtype that it does not name'} at "
        f"temperature {described.temperature:g}"
    )


def _shared(fitting: Mapping[str, teacher_pb2.Description]) -> teacher_pb2.Description:
    """The latest Description, with the capabilities that all of them have."""
    latest = [*fitting.values()][-1]
    shared = teacher_pb2.Description()
    shared.CopyFrom(latest)
    shared.capabilities[:] = [
        it
        for it in latest.capabilities
        if all(it in other.capabilities for other in fitting.values())
    ]
    return shared


def _identity(described: teacher_pb2.Description) -> tuple[str, float, str]:
    return described.weights_digest, described.temperature, described.dtype
