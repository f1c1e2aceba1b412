"""A client of several teachers of a kind, against real gRPC servers in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from protos.target_rows import Targets
from tests.support.client_world import FakeTeacher, World, client_of, examples, wait_for
from tests.support.same_bits import assert_same_bits
from trainer.common.errors import TeacherUnavailable
from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import CutConfig, NamedTeacher
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.dialing import STREAMS

PARTS = {"large": 0.7, "small": 0.3}
DIALOGUE = {
    name: NamedTeacher(kind="dialogue", weights_digest=name, weight=weight)
    for name, weight in PARTS.items()
}
RECOMMENDERS = {
    name: NamedTeacher(kind="recommendation", weights_digest=name) for name in ("graph", "words")
}
ETA = 0.95
LENGTHS = (2, 3, 1)
# Of three responses the small teacher opens a gate of its own in the first, the mixture of both in
# the second alone.
MASSES = {
    "large": (0.92, 0.92, 0.92, 0.99, 0.92, 0.92),
    "small": (0.99, 0.92, 0.92, 0.93, 0.92, 0.92),
}


def config_of(*named: Mapping[str, NamedTeacher], **settings: Any) -> DistillConfig:
    teachers = {name: teacher for each in named for name, teacher in each.items()}
    return DistillConfig(**{"values": "float32", "teachers": teachers, **settings})


ALL = config_of(DIALOGUE, RECOMMENDERS)


def add(world: World, name: str, **settings: Any) -> FakeTeacher:
    """A replica of the teacher of a name."""
    kind = "recommendation" if name in RECOMMENDERS or name == "recommendation" else "dialogue"
    masses = MASSES.get(name, (0.92,))
    teacher = FakeTeacher(kind, weights_digest=f"{name}-digest", item_masses=masses, **settings)
    return world.add(name, teacher)


def add_replica(world: World, name: str, number: int) -> FakeTeacher:
    teacher = FakeTeacher("dialogue", weights_digest=f"{name}-digest", item_masses=(0.92,))
    return world.add(f"{name}-{number}", teacher)


def fleet(world: World) -> dict[str, FakeTeacher]:
    return {name: add(world, name) for name in (*DIALOGUE, *RECOMMENDERS)}


def asked(make: Callable[[], TeacherClient], *lengths: int) -> tuple[TeacherClient, Targets]:
    client = make()
    try:
        return client, client.submit(examples(*(lengths or LENGTHS))).result(20)
    finally:
        client.close()


def test_rank_dials_a_subset_of_the_replicas_of_each_named_teacher(world: World) -> None:
    # The Directory does not say whose replica each is.
    fleets = {
        name: [add_replica(world, name, number) for number in range(STREAMS + 3)]
        for name in DIALOGUE
    }

    def dialed() -> list[int]:
        return [sum(each.streams > 0 for each in replicas) for replicas in fleets.values()]

    client = world.client(config_of(DIALOGUE, gate="fixed", fixed_lambda=0.0))
    try:
        wait_for(lambda: dialed() == [STREAMS, STREAMS])
        assert [it.num_rows for it in client.submit(examples(2)).result(20).values()] == [2, 2]
    finally:
        client.close()


def test_each_named_teacher_is_asked_by_its_own_cut(world: World) -> None:
    teachers = fleet(world)
    large = {"large": NamedTeacher(**{**vars(DIALOGUE["large"]), "cut": CutConfig(top_k=7)})}
    config = config_of(DIALOGUE, large, RECOMMENDERS, gate="soft")
    client, targets = asked(lambda: world.client(config))
    assert list(targets) == list(client.identity) == ["large", "small", "graph", "words"]
    assert client.identity["small"] == "small-digest in float32 at temperature 1"
    assert [each.num_rows for each in targets.values()] == [6, 6, 3, 3]
    for name, teacher in teachers.items():
        (request,) = teacher.asked
        assert request.compression.top_k == {"large": 7, "small": 64}.get(name, 2048)
    # Rows of both teachers.
    assert (client.counters.positions, client.counters.requests) == (12, 4)


def test_hard_gate_waits_for_all_dialogue_teachers_and_asks_by_their_mixture(world: World) -> None:
    teachers = fleet(world)
    config = config_of(DIALOGUE, RECOMMENDERS, eta=ETA)
    client, targets = asked(lambda: world.client(config))
    for name in RECOMMENDERS:
        (request,) = teachers[name].asked
        assert len(request.range_lengths) // 4 == 1
        assert targets[name].is_absent_R.tolist() == [True, False, True]
    assert client.counters.spared_rows == 4


def test_unnamed_kind_beside_a_named_one_takes_whom_the_fleet_serves(world: World) -> None:
    for name in ("large", "small", "recommendation"):
        add(world, name)
    _, targets = asked(lambda: world.client(config_of(DIALOGUE, gate="soft")))
    assert list(targets) == ["large", "small", "recommendation"]


def test_replica_of_no_named_weights_is_put_aside(world: World) -> None:
    fleet(world)
    stranger = add(world, "stranger")
    client = world.client(ALL)
    try:
        wait_for(lambda: client.counters.quarantined == 1)
        assert client.submit(examples(2)).result(20)["small"].num_rows == 2
    finally:
        client.close()
    assert stranger.requests == 0


def test_fleet_without_any_of_the_named_teachers_is_a_mistake_told_at_once(world: World) -> None:
    add(world, "stranger")
    for name in RECOMMENDERS:
        add(world, name)
    with pytest.raises(ValueError, match=r"\(large large, small small\), got stranger-digest at "):
        world.client(ALL).close()


def test_named_teacher_that_is_not_served_is_waited_for_no_longer_than_patience(
    world: World,
) -> None:
    for name in ("large", *RECOMMENDERS):
        add(world, name)
    with pytest.raises(
        TeacherUnavailable, match=r"no small teacher answered for 0\.2 s .*it is la"
    ):
        world.client(ALL, patience_s=0.2).close()


def test_named_teacher_that_comes_later_completes_the_fleet(world: World) -> None:
    large, *_ = (add(world, name) for name in ("large", *RECOMMENDERS))
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(world.client, ALL)
        wait_for(lambda: large.streams == 1)
        assert not starting.done()
        add(world, "small")
        client = starting.result(20)
    try:
        assert list(client.limits) == ["large", "small", "graph", "words"]
    finally:
        client.close()


def test_settled_teacher_of_a_name_is_held_to(world: World) -> None:
    fleet(world)
    half = FakeTeacher("dialogue", weights_digest="small-digest", dtype="bf16")
    world.add("half", half)
    settled = {"small": "small-digest in bf16 at temperature 1"}
    client = world.client(ALL, settled=settled)
    try:
        wait_for(lambda: client.counters.quarantined == 1)
        assert client.identity["small"] == settled["small"]
        assert client.submit(examples(2)).result(20)["small"].num_rows == 2
    finally:
        client.close()
    assert half.requests == 1


def test_cache_keeps_each_teachers_rows_for_other_ensembles(world: World, tmp_path: Path) -> None:
    teachers = fleet(world)
    _, first = asked(lambda: client_of(world, tmp_path, ALL))
    newcomer = add(world, "third")
    third = NamedTeacher(kind="dialogue", weights_digest="third")
    large = NamedTeacher(kind="dialogue", weights_digest="large")
    other = config_of({"big": large, "third": third}, RECOMMENDERS)
    _, second = asked(lambda: client_of(world, tmp_path, other))
    # By another name it is the same teacher.
    assert_same_bits(first["large"], second["big"])
    assert (newcomer.requests, teachers["large"].requests) == (1, 1)


@pytest.mark.parametrize("has_stranger", [False, True])
def test_named_teacher_that_is_not_listed_is_taken_from_the_cache_beside_others(
    has_stranger: bool, world: World, tmp_path: Path
) -> None:
    fleet(world)
    # Of the recommenders, too: a gate that is closed asks them for nothing.
    config = config_of(DIALOGUE, RECOMMENDERS, gate="soft")
    _, first = asked(lambda: client_of(world, tmp_path, config))
    world.list_("small", None)
    if has_stranger:
        add(world, "stranger")
    client, second = asked(lambda: client_of(world, tmp_path, config))
    world.kill("directory")
    alone, third = asked(lambda: client_of(world, tmp_path, config, connect_s=0.2))
    assert client.counters.requests == alone.counters.requests == 0
    assert client.identity == alone.identity
    for targets in (second, third):
        assert list(targets) == list(first)
        for name, rows in targets.items():
            assert_same_bits(rows, first[name])
