"""The client against real gRPC servers in this process, whose teachers do what a test wants."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import grpc
import numpy as np
import pytest

from protos import teacher_pb2
from protos.codec import WireError
from tests.support.client_world import (
    VOCAB,
    FakeTeacher,
    World,
    dialogue_of_two,
    examples,
    wait_for,
)
from trainer.common.errors import TeacherUnavailable
from trainer.config.distill import DistillConfig
from trainer.data.model_input import RANGES, InputLimits
from trainer.kinds.table import TEACHER_KINDS


def test_client_returns_the_rows_asked_for_in_order_of_submission(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client()
    try:
        pending = [client.submit(examples(*lengths)) for lengths in ([2, 3], [4], [1, 1, 1])]
        received = [each.result() for each in pending]
    finally:
        client.close()
    assert [each["dialogue"].num_rows for each in received] == [5, 4, 3]
    assert [each["recommendation"].num_rows for each in received] == [2, 1, 3]
    assert (client.counters.requests, client.counters.positions) == (6, 12)


def test_client_outlives_failures_of_its_only_replica(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.dispatch.RETRY_S", 0.05)
    world.add("d", FakeTeacher("dialogue", failures=3))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client()
    try:
        assert client.submit(examples(2, 3)).result()["dialogue"].ids_E.tolist() == [0, 1, 2, 3, 4]
    finally:
        client.close()
    assert client.counters.resends == 3


def test_client_micro_batch_that_is_too_large_comes_back_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.request_parts.MAX_REPLY_ENTRIES", 5 * VOCAB)
    teachers = [world.add(kind[0], FakeTeacher(kind)) for kind in ("dialogue", "recommendation")]
    client = world.client()
    try:
        received = client.submit(examples(2, 3, 4, 1, 1, 1)).result()
    finally:
        client.close()
    # Five rows at a time: 2 + 3, 4 + 1 and 1 + 1 of dialogue, one an example of recommendation.
    assert [teacher.requests for teacher in teachers] == [3, 2]
    assert received["dialogue"].ids_E.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert received["recommendation"].num_rows == 6


@pytest.mark.parametrize(
    ("fixed_lambda", "kind", "rows"), [(0.0, "dialogue", 5), (1.0, "recommendation", 2)]
)
def test_client_with_one_teacher_needs_no_other(
    world: World, fixed_lambda: float, kind: str, rows: int
) -> None:
    world.add(kind[0], FakeTeacher(kind))
    distill = DistillConfig(gate="fixed", fixed_lambda=fixed_lambda)
    client = world.client(distill=distill)
    try:
        received = client.submit(examples(2, 3)).result()
    finally:
        client.close()
    assert {kind: each.num_rows for kind, each in received.items()} == {kind: rows}
    assert list(client.identity) == [kind]
    assert list(client.limits) == [kind]


def test_client_that_is_closed_fails_what_is_under_way(world: World) -> None:
    silent = world.add("d", FakeTeacher("dialogue", silent=True))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client()
    pending = [client.submit(examples(2)) for _ in range(3)]
    wait_for(lambda: silent.requests == 3)
    client.close()
    for each in pending:
        with pytest.raises(TeacherUnavailable, match="the teacher client was closed"):
            each.result(timeout=0)
    client.close()  # Again is no error.


def test_client_work_of_a_killed_replica_goes_to_the_other(world: World) -> None:
    world.add("r", FakeTeacher("recommendation"))
    silent = world.add("silent", FakeTeacher("dialogue", silent=True))
    client = world.client()
    try:
        pending = [client.submit(examples(2)) for _ in range(4)]
        wait_for(lambda: silent.requests == 4)
        world.add("spare", FakeTeacher("dialogue"))
        world.kill("silent")
        world.list_("silent", None)
        assert [each.result()["dialogue"].num_rows for each in pending] == [2] * 4
    finally:
        client.close()
    assert silent.requests == client.counters.resends == 4


def test_client_asks_without_ranges_where_only_a_replica_without_them_is_left(
    world: World,
) -> None:
    world.add("r", FakeTeacher("recommendation"))
    able = world.add("able", FakeTeacher("dialogue", capabilities=(RANGES,), silent=True))
    client = world.client()
    try:
        pending = client.submit(dialogue_of_two())
        wait_for(lambda: able.requests == 1)
        other = world.add("other", FakeTeacher("dialogue"))
        wait_for(lambda: other.streams == 1)
        world.kill("able")
        world.list_("able", None)
        assert pending.result()["dialogue"].num_rows == 5
    finally:
        client.close()
    # The request from before is refused; the same rows are asked for in a sequence each.
    counts = [np.frombuffer(it.range_counts, "<i4").tolist() for it in other.asked]
    assert counts == [[2], [1, 1]]


def test_client_asks_with_ranges_again_once_the_replica_without_them_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.streams.RETRY_S", 0.02)
    world.add("r", FakeTeacher("recommendation"))
    able = world.add("able", FakeTeacher("dialogue", capabilities=(RANGES,)))
    unable = world.add("unable", FakeTeacher("dialogue"))
    client = world.client()
    try:
        wait_for(lambda: unable.streams == able.streams == 1)
        assert not client.limits["dialogue"].takes_ranges
        world.kill("unable")
        world.list_("unable", None)
        wait_for(lambda: client.limits["dialogue"].takes_ranges)
        assert client.submit(dialogue_of_two()).result()["dialogue"].num_rows == 5
    finally:
        client.close()
    assert np.frombuffer(able.asked[-1].range_counts, "<i4").tolist() == [2]


class Deadly(FakeTeacher):
    """Ends at every request, and is there again at the same address as another process."""

    async def Score(self, requests: Any, context: Any) -> Any:
        async for _ in requests:
            self.requests += 1
            self.replica_id = f"d-{self.requests}"
            await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
            yield


def test_client_request_that_kills_every_process_at_an_address_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.losses.DEATHS_APART_S", -1.0)
    monkeypatch.setattr("trainer.teacher_client.streams.RETRY_S", 0.02)
    world.add("r", FakeTeacher("recommendation"))
    deadly = world.add("d-0", Deadly("dialogue"))
    address = world.directory.fleet["d-0"].address
    client = world.client()
    try:
        pending = client.submit(examples(2))
        for number in range(1, 6):
            wait_for(lambda least=number: deadly.requests >= least)
            # Both are listed until the first one's lease runs out.
            name = f"d-{number}"
            endpoint = teacher_pb2.Endpoint(kind="dialogue", address=address, replica_id=name)
            world.list_(name, endpoint)
        with pytest.raises(TeacherUnavailable, match=r"5 dialogue replicas ended .* d-0, d-1, d-2"):
            pending.result(timeout=20)
    finally:
        client.close()
    assert deadly.requests >= 5


def test_client_stalled_replica_loses_its_work_after_the_deadline(world: World) -> None:
    world.add("r", FakeTeacher("recommendation"))
    world.add("silent", FakeTeacher("dialogue", silent=True))
    world.add("good", FakeTeacher("dialogue"))
    client = world.client(deadline_s=0.2)
    try:
        pending = [client.submit(examples(2)) for _ in range(6)]
        assert [each.result()["dialogue"].num_rows for each in pending] == [2] * 6
    finally:
        client.close()


def test_client_holds_one_stream_to_a_replica_that_is_delisted_and_listed_again(
    world: World,
) -> None:
    world.add("r", FakeTeacher("recommendation"))
    teacher = world.add("d", FakeTeacher("dialogue"))
    client = world.client()
    try:
        endpoint = world.directory.fleet["d"]
        for _ in range(5):
            world.list_("d", None)
            world.list_("d", endpoint)
        assert client.submit(examples(3)).result()["dialogue"].num_rows == 3
    finally:
        client.close()
    assert teacher.most_streams == 1


def test_client_garbage_from_everyone_stops_the_run(world: World) -> None:
    world.add("r", FakeTeacher("recommendation"))
    world.add("d", FakeTeacher("dialogue", garbage=True))
    client = world.client()
    try:
        with pytest.raises(WireError, match="answered badly, and so was the answer before"):
            client.submit(examples(3)).result()
    finally:
        client.close()


def test_client_teacher_of_another_graph_is_refused_with_both_digests(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation", graph_digest="graph-b"))
    with pytest.raises(ValueError, match=r"student's graph graph-a, got graph-b"):
        world.client()


@pytest.mark.parametrize(
    ("kind", "column"), [("dialogue", "tokens"), ("recommendation", "entities")]
)
def test_client_teacher_that_takes_nothing_it_needs_is_refused(
    world: World, kind: str, column: str
) -> None:
    # As a teacher of another version of the contract would describe itself.
    world.add("d", FakeTeacher("dialogue", longest=0 if kind == "dialogue" else 64))
    world.add("r", FakeTeacher("recommendation", longest=0 if kind == "recommendation" else 64))
    with pytest.raises(ValueError, match=f"the {kind} teacher .* must take {column}, got a limit"):
        world.client()


def test_client_without_a_kind_runs_out_of_patience(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    with pytest.raises(TeacherUnavailable, match="no recommendation teacher answered for 1 s"):
        world.client(patience_s=1.0)


def test_client_wakes_a_kind_that_was_scaled_to_zero_whenever_it_asks(world: World) -> None:
    world.add("recommendation", FakeTeacher("recommendation"))
    sleeper = world.add("dialogue", FakeTeacher("dialogue"))
    endpoint = world.directory.fleet["dialogue"]
    world.list_("dialogue", None)
    world.directory.asleep["dialogue"] = endpoint
    client = world.client()
    try:
        assert client.submit(examples(2)).result()["dialogue"].num_rows == 2
        world.list_("dialogue", None)
        world.directory.asleep["dialogue"] = endpoint
        # Nobody asks: it sleeps on, and nothing runs out of patience.
        assert client._dispatcher.missing() == []
        assert client.submit(examples(3)).result()["dialogue"].num_rows == 3
    finally:
        client.close()
    assert (sleeper.requests, client.counters.resends) == (2, 0)


def test_client_without_directory_says_where_it_looked(world: World) -> None:
    world.kill("directory")
    with pytest.raises(TeacherUnavailable, match=f"no Directory answers at {world.address}"):
        world.client(connect_s=0.2)


@pytest.mark.everything
def test_client_does_not_take_another_replica_on_the_port_of_a_dead_one_for_it(
    world: World,
) -> None:
    world.add("r", FakeTeacher("recommendation"))
    other = world.add("d", FakeTeacher("dialogue"))
    other.replica_id = "born later on the same port"
    with pytest.raises(TeacherUnavailable, match="born later on the same port answers there"):
        world.client(patience_s=1.0)
    assert other.streams == 0


def test_client_knows_the_longest_inputs_of_its_teachers(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))
    client = world.client()
    try:
        limits = client.limits
        assert limits["dialogue"] == InputLimits(max_tokens=64)
        assert limits["recommendation"] == InputLimits(max_entities=64)
        assert set(client.identity) == {"dialogue", "recommendation"}
        assert client.identity["dialogue"] == "weights-dialogue in float32 at temperature 1"
    finally:
        client.close()


@pytest.mark.parametrize(("num_words", "ids", "lengths"), [(9, [7, 8], [2]), (0, [], [])])
def test_client_sends_the_last_words_to_a_teacher_that_takes_them(
    world: World, num_words: int, ids: list[int], lengths: list[int]
) -> None:
    dialogue = world.add("d", FakeTeacher("dialogue"))
    teacher = world.add("r", FakeTeacher("recommendation", num_words=num_words))
    (example,) = examples(2)
    example = dataclasses.replace(example, context_words=np.array([6, 7, 8], np.int32))
    client = world.client()
    try:
        client.submit([example]).result()
    finally:
        client.close()
    assert np.frombuffer(teacher.asked[0].word_ids, "<i4").tolist() == ids
    assert np.frombuffer(teacher.asked[0].word_lengths, "<i4").tolist() == lengths
    assert dialogue.asked[0].word_lengths == b""


@pytest.mark.parametrize(("tail", "seeds"), [("sampled", {5, 6}), ("bucket", {0})])
def test_client_of_another_seed_asks_for_other_draws_where_rows_are_drawn(
    tail: Literal["sampled", "bucket"], seeds: set[int]
) -> None:
    distill = DistillConfig(tail=tail)
    asked = {TEACHER_KINDS["dialogue"].compression(distill, seed).seed for seed in (5, 6)}
    assert asked == seeds
