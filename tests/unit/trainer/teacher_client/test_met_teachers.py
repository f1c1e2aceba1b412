"""Replicas of one teacher that can do different things."""

from __future__ import annotations

from typing import Any

import pytest

from protos.teacher_pb2 import Compression, Description
from tests.support.client_world import SmallVocabulary
from tests.support.fake_teacher import described
from trainer.config.distill import DistillConfig
from trainer.data.model_input import RANGES, InputLimits
from trainer.kinds.asked import asked_teachers
from trainer.target_cache.keys import Group
from trainer.teacher_client.handshake import MetTeachers, Misfit

DIALOGUE_ALONE = DistillConfig(gate="fixed", fixed_lambda=0.0)


def nobody(**settled: str) -> MetTeachers:
    vocabulary: Any = SmallVocabulary()
    return MetTeachers(asked_teachers(DIALOGUE_ALONE), vocabulary, "graph-a", held=settled)


def met(*capabilities: tuple[str, ...]) -> MetTeachers:
    """A client that met replicas with these capabilities, one after another."""
    teachers = nobody()
    for number, each in enumerate(capabilities):
        teachers.admit(able(*each, replica_id=str(number)), "at host:1")
    return teachers


def able(*capabilities: str, **fields: str | float) -> Description:
    description = described(**fields)
    description.capabilities[:] = capabilities
    return description


def test_requests_use_only_what_every_replica_can_do() -> None:
    for order in (((RANGES,), ()), ((), (RANGES,))):
        assert not InputLimits.of(met(*order).described["dialogue"]).takes_ranges
    both = met((RANGES, "more"), (RANGES,)).described["dialogue"]
    assert list(both.capabilities) == [RANGES]


@pytest.mark.parametrize(
    "fields", [{"weights_digest": "weights-b"}, {"vocabulary_digest": "vocabulary-b"}]
)
def test_requests_use_what_a_misfit_cannot_do(fields: dict[str, str]) -> None:
    teachers = met((RANGES,))
    with pytest.raises(Misfit):
        teachers.admit(able(replica_id="misfit", **fields), "at host:2")
    assert InputLimits.of(teachers.described["dialogue"]).takes_ranges


def test_requests_use_again_what_only_a_replica_that_refused_could_not_do() -> None:
    teachers = met((RANGES,), ())
    teachers.drop("1")
    assert InputLimits.of(teachers.described["dialogue"]).takes_ranges
    assert teachers.has_met("dialogue")
    teachers.drop("0")
    # Its name stays: another teacher would be another run.
    assert teachers.described["dialogue"].weights_digest == "weights-a"
    assert not teachers.has_met("dialogue")
    teachers.drop("never met")


def test_requests_use_again_what_only_a_replica_that_is_gone_could_not_do() -> None:
    teachers = met((RANGES,), ())
    teachers.on_gone("1")
    assert InputLimits.of(teachers.described["dialogue"]).takes_ranges
    # Where all are gone the teacher is known, and was met: who comes next must be the same one.
    teachers.on_gone("0")
    teachers.on_gone("never met")
    assert teachers.has_met("dialogue")
    with pytest.raises(Misfit):
        teachers.admit(able(replica_id="2", weights_digest="weights-b"), "at host:2")
    teachers.admit(able(replica_id="3"), "at host:3")
    assert not InputLimits.of(teachers.described["dialogue"]).takes_ranges


def test_teacher_that_gave_rows_was_met_whatever_it_refuses_later() -> None:
    teachers = met((RANGES,))
    teachers.note_answer("dialogue")
    teachers.drop("0")
    assert teachers.has_met("dialogue")


TOKENS = r"the base vocabulary \(0 tokens here, 6 there\)"


@pytest.mark.parametrize(
    ("fields", "differ"),
    [
        (
            {"text_digest": "b", "first_item_id": 0},
            r"\(12 ids\), which differs in the text rules\. Serve",
        ),
        (
            {"catalogue_digest": "b", "first_item_id": 0},
            r", which differs in the catalogue of items \(12 here, 3 there\)\.",
        ),
        (
            {"first_item_id": 0},
            r", which differs in the base vocabulary \(0 tokens here, 0 there\)\.",
        ),
        ({"text_digest": "b"}, f", which differs in the text rules and {TOKENS}\\."),
        ({"text_digest": ""}, r"got vocabulary-b \(12 ids\)\. Serve"),
    ],
)
def test_misfit_of_another_vocabulary_says_which_part_differs(
    fields: dict[str, str | int], differ: str
) -> None:
    parts: dict[str, str | int] = {
        "vocabulary_digest": "vocabulary-b",
        "catalogue_digest": "catalogue-a",
        "text_digest": "text-a",
    }
    with pytest.raises(Misfit, match=differ):
        nobody().admit(described(**(parts | fields)), "at host:1")


def test_teacher_that_is_settled_fits_alone() -> None:
    teachers = nobody(dialogue="weights-b in float32 at temperature 1")
    with pytest.raises(Misfit, match=r"must have the weights weights-b in .* got weights-a in"):
        teachers.admit(described(), "at host:1")
    assert not teachers.has_met("dialogue")
    teachers.admit(described(weights_digest="weights-b"), "at host:1")
    assert teachers.has_met("dialogue")


def test_cached_targets_are_the_same_whatever_their_replica_can_do() -> None:
    digests = set()
    for capabilities in ((RANGES,), ()):
        description = met(capabilities).described["dialogue"]
        digests.add(Group.of(description, Compression(top_k=4)).digest)
    assert len(digests) == 1
