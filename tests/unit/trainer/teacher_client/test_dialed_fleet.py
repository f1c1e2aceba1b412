"""A client and fleets that are larger than what one rank dials, behind real gRPC servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from protos import teacher_pb2
from protos.target_rows import Targets
from tests.support.client_world import FakeTeacher, World, ask, examples, wait_for
from trainer.config.distill import DistillConfig
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.dialing import STREAMS
from trainer.teacher_client.subset import Caller, dial_order

# The dialogue teacher alone is asked.
DIALOGUE = DistillConfig(gate="fixed", fixed_lambda=0.0, values="float32")
CALLER = Caller(run="run-a")
NAMES = [f"d-{number}" for number in range(18)]
ORDER = dial_order(CALLER, NAMES, STREAMS)


@dataclass
class HeldTeacher(FakeTeacher):
    """Answers nothing until it may."""

    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def Score(self, requests: Any, context: Any) -> AsyncIterator[teacher_pb2.ScoreReply]:
        async for reply in super().Score(requests, context):
            await self.may_answer.wait()
            yield reply


class Fleet:
    """Dialogue teachers by name."""

    def __init__(self, world: World, names: list[str], kind: type[FakeTeacher]) -> None:
        self.world = world
        self.teachers = {name: world.add(name, kind("dialogue")) for name in names}

    def dialed(self) -> set[str]:
        return {name for name, it in self.teachers.items() if it.streams}

    def list_(self, *names: str) -> None:
        for name in names:
            self.world.list_(name, self.endpoints[name])

    def delist(self, *names: str) -> None:
        self.endpoints = dict(self.world.directory.fleet)
        for name in names:
            self.world.list_(name, None)

    @property
    def requests(self) -> int:
        return sum(it.requests for it in self.teachers.values())


def fleet(
    world: World, names: list[str] = NAMES, kind: type[FakeTeacher] = FakeTeacher
) -> tuple[Fleet, TeacherClient]:
    teachers = Fleet(world, names, kind)
    return teachers, world.client(distill=DIALOGUE, caller=CALLER)


def rows_of(pending: list[Future[Targets]]) -> list[int]:
    return [each.result(timeout=20)["dialogue"].num_rows for each in pending]


def test_rank_dials_its_subset_and_gets_all_answers_from_it(world: World) -> None:
    teachers, client = fleet(world)
    try:
        wait_for(lambda: teachers.dialed() == set(ORDER[:STREAMS]))
        pending = [client.submit(examples(2, 3)) for _ in range(40)]
        assert rows_of(pending) == [5] * 40
        assert teachers.dialed() == set(ORDER[:STREAMS])
    finally:
        client.close()
    assert all(teachers.teachers[name].requests for name in ORDER[:STREAMS])
    assert sum(it.describes for it in teachers.teachers.values()) == STREAMS
    counters = client.counters
    assert (teachers.requests, counters.positions, counters.resends) == (40, 200, 0)
    assert counters.streams_opened == counters.streams_ended == STREAMS


def test_killed_replicas_are_replaced_though_they_are_still_listed(world: World) -> None:
    teachers, client = fleet(world)
    try:
        wait_for(lambda: len(teachers.dialed()) == STREAMS)
        # All that it dials at once, with work under way.
        pending = [client.submit(examples(2)) for _ in range(20)]
        for name in ORDER[:STREAMS]:
            world.kill(name)
        assert rows_of(pending) == [2] * 20
        wait_for(lambda: teachers.dialed() == set(ORDER[STREAMS : 2 * STREAMS]))
        assert client.counters.positions == 40
    finally:
        client.close()


def test_misfits_of_a_subset_are_replaced_by_those_that_fit(world: World) -> None:
    names = NAMES[:14]
    order = dial_order(CALLER, names, STREAMS)
    teachers = Fleet(world, names, FakeTeacher)
    for name in order[:STREAMS]:
        teachers.teachers[name].vocabulary_digest = "vocabulary-b"
    client = world.client(distill=DIALOGUE, caller=CALLER)
    try:
        wait_for(lambda: teachers.dialed() == set(order[STREAMS:]))
        assert ask(client, 3)["dialogue"].num_rows == 3
        assert client.counters.quarantined == STREAMS
    finally:
        client.close()


def test_rank_that_is_short_of_streams_dials_one_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.streams.LOOK_S", 0.02)
    monkeypatch.setattr("trainer.teacher_client.dialing.GROW_S", 0.1)
    teachers, client = fleet(world, NAMES[:12], HeldTeacher)
    order = dial_order(CALLER, NAMES[:12], STREAMS)
    try:
        wait_for(lambda: len(teachers.dialed()) == STREAMS)
        pending = [client.submit(examples(2)) for _ in range(2 * STREAMS)]
        wait_for(lambda: teachers.dialed() == set(order[: STREAMS + 1]))
        # It begins at once what would wait elsewhere.
        pending.append(client.submit(examples(2)))
        wait_for(lambda: teachers.teachers[order[STREAMS]].requests == 1)
        release(world, teachers, *order)
        assert rows_of(pending) == [2] * (2 * STREAMS + 1)
    finally:
        client.close()
    assert teachers.requests == 2 * STREAMS + 1


def release(world: World, teachers: Fleet, *names: str) -> None:
    async def answer() -> None:
        for name in names:
            held: Any = teachers.teachers[name]
            held.may_answer.set()

    world.run(answer())


def test_replica_that_is_no_longer_chosen_answers_what_it_has_and_its_stream_ends(
    world: World,
) -> None:
    teachers = Fleet(world, NAMES, HeldTeacher)
    # The four first of the order come later, and take the place of four.
    teachers.delist(*ORDER[:4])
    first, later = ORDER[4 : 4 + STREAMS], ORDER[:STREAMS]
    left = [name for name in first if name not in later]
    client = world.client(distill=DIALOGUE, caller=CALLER)
    try:
        wait_for(lambda: teachers.dialed() == set(first))
        pending = [client.submit(examples(2)) for _ in range(STREAMS)]
        wait_for(lambda: all(teachers.teachers[name].requests == 1 for name in first))
        teachers.list_(*ORDER[:4])
        wait_for(lambda: set(later) <= teachers.dialed())
        pending += [client.submit(examples(2)) for _ in range(2 * STREAMS)]
        wait_for(lambda: all(teachers.teachers[name].requests == 1 for name in later))
        # What they have they keep, and nothing comes after it.
        assert [teachers.teachers[name].requests for name in left] == [1] * 4
        assert set(left) <= teachers.dialed()
        release(world, teachers, *ORDER)
        assert rows_of(pending) == [2] * (3 * STREAMS)
        wait_for(lambda: teachers.dialed() == set(later))
        assert (client.counters.positions, client.counters.resends) == (6 * STREAMS, 0)
    finally:
        client.close()


def test_no_answer_is_lost_or_asked_for_twice_while_the_fleet_grows_and_shrinks(
    world: World,
) -> None:
    teachers, client = fleet(world)
    pending: list[Future[Targets]] = []
    try:
        wait_for(lambda: len(teachers.dialed()) == STREAMS)
        for number in range(4):
            pending += [client.submit(examples(1, 2)) for _ in range(10)]
            gone = ORDER[2 * number : 2 * number + 2]
            teachers.delist(*gone)
            pending += [client.submit(examples(1, 2)) for _ in range(10)]
            if number % 2:
                teachers.list_(*gone)
        assert rows_of(pending) == [3] * len(pending)
        assert client.counters.resends == 0
        assert teachers.requests == client.counters.requests == len(pending)
    finally:
        client.close()


def test_stream_that_is_released_and_wanted_again_is_opened_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.streams.RETRY_S", 0.02)
    teachers = Fleet(world, NAMES, HeldTeacher)
    teachers.delist(ORDER[0])
    back = ORDER[STREAMS]
    client = world.client(distill=DIALOGUE, caller=CALLER)
    try:
        wait_for(lambda: back in teachers.dialed())
        pending = [client.submit(examples(2)) for _ in range(STREAMS)]
        wait_for(lambda: teachers.teachers[back].requests == 1)
        teachers.list_(ORDER[0])
        wait_for(lambda: ORDER[0] in teachers.dialed())
        # Its stream takes no more requests, and is needed again before it has ended.
        world.kill(ORDER[1])
        release(world, teachers, *ORDER[: STREAMS + 2])
        assert rows_of(pending) == [2] * STREAMS
        expected = {*ORDER[: STREAMS + 1]} - {ORDER[1]}
        wait_for(lambda: expected <= teachers.dialed())
        assert rows_of([client.submit(examples(2)) for _ in range(40)]) == [2] * 40
        assert teachers.teachers[back].most_streams == 1
    finally:
        client.close()


def test_ranks_dial_their_teacher_alike_beside_another_one_whose_replicas_say_so(
    world: World,
) -> None:
    teachers = Fleet(world, NAMES, FakeTeacher)
    for number, (name, teacher) in enumerate(teachers.teachers.items()):
        teacher.weights_digest = "new" if number % 3 == 0 else "old"
        told = teacher_pb2.Endpoint(weights_digest=teacher.weights_digest)
        told.MergeFrom(world.directory.fleet[name])
        world.list_(name, told)
    callers = [Caller(run="run-a", rank=rank, num_ranks=3) for rank in range(3)]
    settled = {"dialogue": "old in float32 at temperature 1"}
    clients = [world.client(distill=DIALOGUE, caller=it, settled=settled) for it in callers]
    try:
        # 24 streams to the 12 that fit, and none to the others.
        expected = {"old": 2, "new": 0}
        wait_for(
            lambda: all(
                it.streams == expected[it.weights_digest] for it in teachers.teachers.values()
            )
        )
    finally:
        for client in clients:
            client.close()


def test_ranks_of_a_run_dial_each_replica_alike(world: World) -> None:
    teachers = Fleet(world, NAMES[:12], FakeTeacher)
    callers = [Caller(run="run-a", rank=rank, num_ranks=3) for rank in range(3)]
    clients = [world.client(distill=DIALOGUE, caller=caller) for caller in callers]
    try:
        # 24 streams to 12 replicas.
        wait_for(lambda: all(it.streams == 2 for it in teachers.teachers.values()))
    finally:
        for client in clients:
            client.close()
