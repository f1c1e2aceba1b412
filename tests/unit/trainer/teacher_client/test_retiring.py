"""Teachers that retire serve the runs that have them, and no new ones: over real gRPC."""

from __future__ import annotations

import pytest

from protos.teacher_pb2 import Endpoint
from tests.support.client_world import FakeTeacher, World, ask, examples, wait_for
from trainer.common.errors import TeacherUnavailable
from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import NamedTeacher

OLD = {"dialogue": "old in float32 at temperature 1"}


def add(world: World, name: str, weights: str, *, retiring: bool = False) -> FakeTeacher:
    teacher = world.add(name, FakeTeacher("dialogue", weights_digest=weights))
    if retiring:
        retire(world, name, weights)
    return teacher


def retire(world: World, name: str, weights: str) -> None:
    endpoint = Endpoint(weights_digest=weights, retiring=True)
    endpoint.MergeFrom(world.directory.fleet[name])
    world.list_(name, endpoint)


@pytest.fixture
def served(world: World) -> World:
    world.add("r", FakeTeacher("recommendation"))
    return world


def test_new_run_takes_the_teacher_that_does_not_retire(served: World) -> None:
    old = add(served, "a", "old", retiring=True)
    add(served, "b", "new")
    client = served.client()
    try:
        assert client.identity["dialogue"].startswith("new in ")
        assert ask(client, 2)["dialogue"].num_rows == 2
        # Nor does a run that has its teacher dial it, when it is told of the fleet again.
        another = add(served, "c", "new")
        wait_for(lambda: another.streams == 1)
        assert (old.describes, client.counters.quarantined) == (0, 0)
    finally:
        client.close()


NAMED = DistillConfig(
    values="float32", teachers={"mine": NamedTeacher(kind="dialogue", weights_digest="new")}
)


@pytest.mark.parametrize("distill", [None, NAMED], ids=["any", "named"])
def test_new_run_wakes_and_waits_for_one_that_does_not_retire(
    distill: DistillConfig | None, served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.streams.RETRY_S", 0.02)
    old = add(served, "a", "old", retiring=True)
    add(served, "b", "new")
    served.directory.asleep["dialogue"] = served.directory.fleet["b"]
    served.list_("b", None)
    client = served.client(distill)
    client.close()
    assert client.identity["mine" if distill else "dialogue"].startswith("new in ")
    assert old.describes == 0


def test_new_run_that_names_a_teacher_that_retires_takes_it(served: World) -> None:
    old = add(served, "a", "new-ish", retiring=True)
    client = served.client(NAMED)
    client.close()
    assert (client.identity["mine"].split()[0], old.describes) == ("new-ish", 1)


def test_run_that_waits_in_vain_is_told_that_what_is_there_retires(served: World) -> None:
    add(served, "a", "old", retiring=True)
    with pytest.raises(TeacherUnavailable, match="it retires, for the runs that learn from it"):
        served.client(patience_s=0.1)


@pytest.mark.parametrize("digest", ["old", ""])
def test_run_goes_on_with_its_teacher_that_retires_and_with_replicas_that_come(
    digest: str, served: World
) -> None:
    first = add(served, "a", "old")
    client = served.client()
    try:
        retire(served, "a", digest)
        new = add(served, "b", "new")
        wait_for(lambda: client.counters.quarantined == 1)
        assert ask(client, 2)["dialogue"].num_rows == 2
        second = add(served, "c", "old", retiring=True)
        wait_for(lambda: second.streams == 1)
        served.list_("a", None)
        assert ask(client, 2)["dialogue"].num_rows == 2
        assert (first.requests, second.requests, new.requests) == (1, 1, 0)
    finally:
        client.close()


def test_run_that_has_its_teacher_leaves_replicas_alone_that_say_other_weights(
    served: World,
) -> None:
    add(served, "a", "old")
    client = served.client()
    try:
        other = FakeTeacher("dialogue", weights_digest="new")
        served.add("b", other, weights_digest="new")
        own = FakeTeacher("dialogue", weights_digest="old")
        served.add("c", own, weights_digest="old")
        wait_for(lambda: own.streams == 1)
        assert ask(client, 2)["dialogue"].num_rows == 2
        assert (other.describes, client.counters.quarantined) == (0, 0)
    finally:
        client.close()


def test_replica_whose_lease_has_another_name_for_its_weights_serves_on(served: World) -> None:
    teacher = FakeTeacher("dialogue", weights_digest="old")
    served.add("a", teacher, weights_digest="of-last-spring")
    client = served.client()
    try:
        add(served, "b", "old")
        wait_for(lambda: client.counters.streams_opened == 3)
        for answer in [client.submit(examples(2)) for _ in range(32)]:
            assert answer.result(timeout=20)["dialogue"].num_rows == 2
        assert (teacher.streams, teacher.requests > 0) == (1, True)
    finally:
        client.close()


def test_run_that_is_gone_on_with_takes_its_teacher_though_it_retires(served: World) -> None:
    old = add(served, "a", "old", retiring=True)
    add(served, "b", "new")
    client = served.client(settled=OLD)
    try:
        assert client.identity["dialogue"] == OLD["dialogue"]
        assert ask(client, 2)["dialogue"].num_rows == 2
        assert old.requests == 1
    finally:
        client.close()
