"""Replicas of one teacher that can do different things."""

from __future__ import annotations

from typing import Any

from protos.teacher_pb2 import Compression
from tests.support.client_world import SmallVocabulary
from tests.support.fake_teacher import described
from trainer.data.model_input import RANGES, InputLimits
from trainer.kinds.table import TEACHER_KINDS
from trainer.target_cache.keys import Group
from trainer.teacher_client.handshake import MetTeachers


def met(*capabilities: tuple[str, ...]) -> MetTeachers:
    """A client that met replicas with these capabilities, one after another."""
    vocabulary: Any = SmallVocabulary()
    teachers = MetTeachers({"dialogue": TEACHER_KINDS["dialogue"]}, vocabulary, "graph-a")
    for each in capabilities:
        description = described()
        description.capabilities[:] = each
        teachers.admit(description, "at host:1")
    return teachers


def test_requests_use_only_what_every_replica_can_do() -> None:
    for order in (((RANGES,), ()), ((), (RANGES,))):
        assert not InputLimits.of(met(*order).described["dialogue"]).takes_ranges
    both = met((RANGES, "more"), (RANGES,)).described["dialogue"]
    assert list(both.capabilities) == [RANGES]


def test_cached_targets_are_the_same_whatever_their_replica_can_do() -> None:
    digests = set()
    for capabilities in ((RANGES,), ()):
        description = met(capabilities).described["dialogue"]
        digests.add(Group.of(description, Compression(top_k=4)).digest)
    assert len(digests) == 1
