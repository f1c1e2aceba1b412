"""The client asks for recommendation rows only where the gate gives them weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.target_rows import Targets, WireError
from tests.support.client_world import (
    GRAPH,
    FakeTeacher,
    SmallVocabulary,
    World,
    client_of,
    examples,
    wait_for,
)
from tests.support.same_bits import assert_same_bits
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.teacher_client.client import TeacherClient

HARD = DistillConfig(values="float32", eta=0.95)
SOFT = DistillConfig(values="float32", gate="soft")
# Of three responses of 2, 3 and 1 positions the gate opens at one position of the second alone.
LENGTHS, MASSES = (2, 3, 1), (0.92, 0.92, 0.92, 0.99, 0.92, 0.92)


def fleet(world: World, **settings: Any) -> tuple[FakeTeacher, FakeTeacher]:
    dialogue = world.add("d", FakeTeacher("dialogue", item_masses=MASSES, **settings))
    return dialogue, world.add("r", FakeTeacher("recommendation"))


def asked_rows(teacher: FakeTeacher) -> list[int]:
    """Rows of each request that a teacher got."""
    return [len(request.range_lengths) // 4 for request in teacher.asked]


def received(client: TeacherClient, *lengths: int) -> Targets:
    try:
        return client.submit(examples(*lengths)).result(20)
    finally:
        client.close()


def test_hard_gate_asks_for_the_recommendations_that_have_weight(world: World) -> None:
    _, recommendation = fleet(world)
    client = world.client(HARD)
    rows = received(client, *LENGTHS)["recommendation"]
    assert asked_rows(recommendation) == [1]
    assert rows.is_absent_R.tolist() == [True, False, True]
    assert (rows.counts_R.tolist(), rows.ids_E.tolist()) == ([0, 1, 0], [0])
    assert (client.counters.spared_rows, client.counters.requests) == (2, 2)


def test_hard_gate_that_is_closed_everywhere_sends_no_request(world: World) -> None:
    _, recommendation = fleet(world)
    client = world.client(HARD)
    rows = received(client, 2)["recommendation"]
    assert (asked_rows(recommendation), rows.is_absent_R.tolist()) == ([], [True])
    assert (client.counters.spared_rows, client.counters.requests) == (1, 1)


def test_recommendations_are_asked_for_when_the_dialogue_rows_come_not_when_used(
    world: World,
) -> None:
    _, recommendation = fleet(world)
    client = world.client(HARD)
    try:
        pending = [client.submit(examples(*LENGTHS)) for _ in range(3)]
        wait_for(lambda: recommendation.requests == 3)
        assert [each.result(20)["recommendation"].num_rows for each in pending] == [3] * 3
    finally:
        client.close()


def test_soft_gate_asks_for_all_without_waiting_for_dialogue_rows(world: World) -> None:
    _, recommendation = fleet(world, silent=True)
    client = world.client(SOFT)
    try:
        client.submit(examples(*LENGTHS))
        wait_for(lambda: recommendation.requests == 1)
    finally:
        client.close()
    assert asked_rows(recommendation) == [3]
    assert client.counters.spared_rows == 0


def test_cached_rows_of_a_hard_gate_are_completed_for_another_gate(
    world: World, tmp_path: Path
) -> None:
    dialogue, recommendation = fleet(world)
    # Contexts of their own: responses of one context share a recommendation.
    batch = examples(*LENGTHS)
    for number, example in enumerate(batch):
        example.context_entities[:] = number
    targets = []
    for distill in (HARD, HARD, SOFT, HARD):
        client = client_of(world, tmp_path, distill)
        try:
            targets.append(client.submit(batch).result(20)["recommendation"])
        finally:
            client.close()
    # The hard gate's one row; the two that the soft gate lacks; nothing for the hard one again.
    assert asked_rows(recommendation) == [1, 2]
    assert dialogue.requests == 1
    assert [rows.is_absent_R.sum() for rows in targets] == [2, 2, 0, 2]
    for rows in (targets[1], targets[3], targets[2].take(np.array([1])).spread(np.array([1]), 3)):
        assert_same_bits(rows, targets[0])


def test_archive_of_targets_has_the_rows_of_every_gate(world: World, tmp_path: Path) -> None:
    _, recommendation = fleet(world)
    vocabulary: Any = SmallVocabulary()
    client = TeacherClient(
        TeachersConfig(directory=world.address, cache=str(tmp_path)),
        HARD,
        vocabulary=vocabulary,
        graph_digest=GRAPH,
        asks_all=True,
    )
    assert not received(client, *LENGTHS)["recommendation"].is_absent_R.any()
    world.kill("directory")
    for distill, absent in ((HARD, 2), (SOFT, 0)):
        client = client_of(world, tmp_path, distill, connect_s=0.2, patience_s=1.0)
        assert received(client, *LENGTHS)["recommendation"].is_absent_R.sum() == absent
    assert recommendation.requests == 1


@pytest.mark.parametrize("kind", ["dialogue", "recommendation"])
def test_broken_rows_of_either_kind_end_the_question(world: World, kind: str) -> None:
    fleet(world)
    name = kind[0]
    world.list_(name, None)
    world.kill(name)
    world.add("bad", FakeTeacher(kind, garbage=True))
    client = world.client(HARD)
    with pytest.raises(WireError, match="answered badly, and so was the answer before"):
        received(client, *LENGTHS)
