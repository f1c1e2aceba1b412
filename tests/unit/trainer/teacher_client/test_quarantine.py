"""Replicas that do not fit, beside those that do: against real gRPC servers in this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from protos import version
from protos.teacher_pb2 import Endpoint
from tests.support.client_world import FakeTeacher, World, ask, wait_for
from trainer.common.errors import TeacherUnavailable
from trainer.teacher_client.quarantine import MOST_REASONS, Quarantine
from trainer.telemetry.client_counters import ClientCounters

OTHER = {"dialogue": "weights-b in float32 at temperature 1"}


class OtherContract(FakeTeacher):
    """A server that has none of our methods."""

    async def Describe(self, request: Any, context: Any) -> Any:
        self.describes += 1
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def misfits() -> dict[str, tuple[FakeTeacher, str]]:
    """One of each sort, and what is said of it."""
    dialogue, recommendation = "dialogue", "recommendation"
    return {
        "vocabulary": (FakeTeacher(dialogue, vocabulary_digest="b"), "student's vocabulary"),
        "graph": (FakeTeacher(recommendation, graph_digest="b"), "student's graph graph-a, got b"),
        "weights": (FakeTeacher(dialogue, weights_digest="b"), "weights-dialogue in .* got b in"),
        "dtype": (FakeTeacher(dialogue, dtype="bf16"), "got weights-dialogue in bf16"),
        "temperature": (FakeTeacher(dialogue, temperature=2.0), "temperature 1, got .*ture 2"),
        "inputs": (FakeTeacher(dialogue, longest=0), "must take tokens, got a limit of 0"),
        "version": (
            FakeTeacher(dialogue, wire_version=3, oldest_wire_version=2),
            "must speak wire version 1, got 2 to 3",
        ),
        "no version": (FakeTeacher(dialogue, wire_version=0), "1, got one that it does not name"),
        "contract": (OtherContract(dialogue), "must speak conkd.v1, got another contract"),
        "refusal": (
            FakeTeacher(dialogue, refusal=grpc.StatusCode.FAILED_PRECONDITION),
            "refused: conkd-wire-version must be 7",
        ),
    }


@pytest.mark.parametrize(("oldest", "newest", "agreed"), [(1, 2, "2"), (2, 3, "2"), (0, 1, "1")])
def test_stream_has_the_highest_version_that_both_ends_speak(
    oldest: int, newest: int, agreed: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "WIRE_VERSION", 2)
    teacher = FakeTeacher("dialogue", wire_version=newest, oldest_wire_version=oldest)
    world.add("d", teacher)
    # One of another range beside it: each stream has its own.
    other = world.add("r", FakeTeacher("recommendation", wire_version=1))
    client = world.client()
    try:
        assert ask(client, 2)["dialogue"].num_rows == 2
    finally:
        client.close()
    assert (teacher.versions, other.versions) == ([agreed], ["1"])


def add_good(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = (record.getMessage() for record in caplog.records)
    return [text for text in told if "put aside" in text]


def test_run_goes_on_beside_a_misfit_of_each_sort(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    add_good(world)
    client = world.client()
    try:
        for name, (teacher, _) in misfits().items():
            world.add(name, teacher)
        wait_for(lambda: client.counters.quarantined == len(misfits()))
        assert ask(client, 2, 3)["dialogue"].num_rows == 5
        assert client.counters.resends == 0
    finally:
        client.close()
    told = warnings(caplog)
    for name, (_, reason) in misfits().items():
        (line,) = [it for it in told if f"replica {name} is put aside" in it]
        with pytest.raises(ValueError, match=reason):
            raise ValueError(line)
    assert len(told) == len(misfits())


def test_run_starts_with_the_replica_that_fits_whoever_is_listed_first(world: World) -> None:
    for name in ("vocabulary", "contract", "inputs", "graph"):
        world.add(name, misfits()[name][0])
    add_good(world)
    client = world.client()
    try:
        assert ask(client, 2)["recommendation"].num_rows == 1
        wait_for(lambda: client.counters.quarantined == 4)
    finally:
        client.close()


@pytest.mark.parametrize("name", sorted(misfits().keys() - {"weights", "dtype", "temperature"}))
def test_start_where_nothing_that_is_listed_fits_ends_at_once(name: str, world: World) -> None:
    teacher, reason = misfits()[name]
    world.add(name, teacher)
    others = {"dialogue", "recommendation"} - {teacher.kind}
    for kind in others:
        world.add(kind, FakeTeacher(kind))
    with pytest.raises(ValueError, match=reason):
        started(world)


def started(world: World, settled: Mapping[str, str] | None = None) -> None:
    """A refusal of the stream itself may come a moment after the start."""
    client = world.client(settled=settled)
    try:
        ask(client, 2)
    finally:
        client.close()


def test_start_waits_for_a_replica_that_is_listed_and_has_not_answered(world: World) -> None:
    world.add("r", FakeTeacher("recommendation"))
    world.add("dead", FakeTeacher("dialogue"))
    world.kill("dead")
    misfit = world.add("misfit", FakeTeacher("dialogue", vocabulary_digest="b"))
    errors: list[Exception] = []
    thread = threading.Thread(target=note_error, args=(world, errors))
    thread.start()
    wait_for(lambda: misfit.describes == 1)
    assert thread.is_alive()
    # Its lease runs out: now there is nobody to wait for.
    world.list_("dead", None)
    thread.join(20)
    (error,) = errors
    assert isinstance(error, ValueError)
    assert "student's vocabulary vocabulary-a (12 ids), got b" in str(error)


def note_error(world: World, errors: list[Exception]) -> None:
    try:
        started(world)
    except Exception as error:  # for the test's own thread
        errors.append(error)


def test_patience_that_ends_among_misfits_says_why_each_was_put_aside(world: World) -> None:
    add_good(world)
    client = world.client(patience_s=1.0)
    try:
        for name in ("vocabulary", "weights"):
            world.add(name, misfits()[name][0])
        wait_for(lambda: client.counters.quarantined == 2)
        world.kill("d")
        world.list_("d", None)
        with pytest.raises(TeacherUnavailable) as raised:
            ask(client, 2)
    finally:
        client.close()
    text = str(raised.value)
    assert "no dialogue teacher answered for 1 s" in text
    assert "Put aside: every dialogue replica" in text or "Put aside: the dialogue teacher" in text
    assert "student's vocabulary vocabulary-a (12 ids), got b (12 ids)" in text
    assert "got b in float32 at temperature 1" in text


def test_misfit_is_looked_at_once_and_another_process_in_its_place_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.streams.RETRY_S", 0.02)
    add_good(world)
    client = world.client()
    try:
        misfit = world.add("misfit", FakeTeacher("dialogue", weights_digest="b"))
        wait_for(lambda: client.counters.quarantined == 1)
        endpoint = world.directory.fleet["misfit"]
        for _ in range(3):
            world.list_("misfit", None)
            world.list_("misfit", endpoint)
        assert ask(client, 2)["dialogue"].num_rows == 2
        assert (misfit.describes, client.counters.quarantined) == (1, 1)
        misfit.replica_id, misfit.weights_digest = "next", ""
        world.list_("next", _renamed(endpoint, "next"))
        wait_for(lambda: misfit.streams == 1)
    finally:
        client.close()
    assert client.counters.quarantined == 1


def _renamed(endpoint: Endpoint, name: str) -> Endpoint:
    return Endpoint(kind=endpoint.kind, address=endpoint.address, replica_id=name)


@pytest.mark.parametrize("first", ["a", "b"])
def test_run_with_a_settled_teacher_takes_that_one_whoever_answers_first(
    first: str, world: World
) -> None:
    world.add("r", FakeTeacher("recommendation"))
    for name in (first, "b" if first == "a" else "a"):
        world.add(name, FakeTeacher("dialogue", weights_digest=f"weights-{name}"))
    client = world.client(settled=OTHER)
    try:
        wait_for(lambda: client.counters.quarantined == 1)
        assert client.identity["dialogue"] == OTHER["dialogue"]
        assert ask(client, 2)["dialogue"].num_rows == 2
    finally:
        client.close()


def test_run_whose_settled_teacher_is_not_served_ends_at_once(world: World) -> None:
    add_good(world)
    with pytest.raises(ValueError, match=r"weights weights-b in .* got weights-dialogue in"):
        started(world, settled=OTHER)


def reasons_of(count: int) -> str:
    quarantine = Quarantine(ClientCounters())
    for number in range(count):
        endpoint = Endpoint(kind="dialogue", address="host:1", replica_id=str(number))
        quarantine.put(endpoint, f"reason {number}.")
    return quarantine.reasons("dialogue")


def test_error_names_a_few_reasons_and_counts_the_others() -> None:
    assert reasons_of(0) == ""
    assert reasons_of(2) == "reason 1. reason 0."
    assert reasons_of(MOST_REASONS + 2) == "reason 4. reason 3. reason 2. So were 2 more."


def test_replica_is_counted_once() -> None:
    counters = ClientCounters()
    quarantine = Quarantine(counters)
    a, b = (Endpoint(kind="dialogue", replica_id=name) for name in "ab")
    assert not quarantine.holds_all([])
    quarantine.put(a, "reason.")
    quarantine.put(a, "another.")
    assert (counters.quarantined, quarantine.reasons("dialogue")) == (1, "reason.")
    assert quarantine.holds(a) and not quarantine.holds(b)
    assert quarantine.holds_all([a]) and not quarantine.holds_all([a, b])
