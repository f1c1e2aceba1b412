from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import numpy as np
import pytest

from protos import teacher_pb2
from protos.codec import TargetRows, WireError
from protos.target_rows import ITEM_MASS
from trainer.common.errors import TeacherUnavailable
from trainer.config.teachers import TeachersConfig
from trainer.teacher_client.dispatch import AVOIDED_S, Dispatcher
from trainer.teacher_client.hedging import FEWEST, Hedging
from trainer.teacher_client.replica import MAX_OVERTAKING, Replica
from trainer.telemetry.client_counters import ClientCounters

KIND_OF = {"dialogue": "dialogue", "recommendation": "recommendation"}
ROWS = TargetRows(
    counts_R=np.zeros(1, np.int32),
    ids_E=np.empty(0, np.int32),
    log_probs_E=np.empty(0, np.float32),
    tail_R=np.ones(1, np.float32),
    masses={ITEM_MASS: np.zeros(1, np.float32)},
    vocab_size=5,
)


class Desk:
    """A dispatcher with replicas that answer when the test says so."""

    def __init__(
        self,
        *replica_ids: str,
        deadline_s: float = 60.0,
        patience_s: float = 60,
        hedge_percent: float = 0.0,
        priority: Literal["normal", "low"] = "normal",
    ) -> None:
        self.counters = ClientCounters()
        config = TeachersConfig(
            deadline_s=deadline_s,
            patience_s=patience_s,
            hedge_percent=hedge_percent,
            priority=priority,
        )
        self.dispatcher = Dispatcher(config, self.counters, KIND_OF, positions_of="dialogue")
        self.replicas = {name: self.add(name) for name in replica_ids}

    def add(self, name: str) -> Replica:
        replica = Replica("dialogue", name, f"host-{name}:1")
        self.dispatcher.add_replica(replica)
        return replica

    def ask(self, request_id: int) -> asyncio.Task[TargetRows]:
        message = teacher_pb2.ScoreRequest(request_id=request_id)
        return asyncio.create_task(self.dispatcher.score("dialogue", message, 1))

    def answer(self, name: str, request_id: int) -> None:
        request = self.dispatcher.take(self.replicas[name], request_id)
        if request is not None:
            self.dispatcher.on_rows(
                request, ROWS, teacher_pb2.ScoreReply(queue_s=0.25, forward_s=0.5)
            )

    def outstanding(self, name: str) -> list[int]:
        return sorted(self.replicas[name].outstanding)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def resent(desk: Desk) -> tuple[str, str]:
    """Who of a and b got the one request first, and who after the deadline."""
    await turn()
    first, second = ("a", "b") if desk.outstanding("a") else ("b", "a")
    while not desk.outstanding(second):
        await asyncio.sleep(0.01)
    return first, second


def test_dispatch_gives_each_request_to_the_least_busy_replica() -> None:
    async def story() -> None:
        desk = Desk("a", "b")
        tasks = [desk.ask(i) for i in range(1, 5)]
        await turn()
        assert len(desk.outstanding("a")) == len(desk.outstanding("b")) == 2
        for name in ("a", "b"):
            for request_id in desk.outstanding(name):
                desk.answer(name, request_id)
        assert await asyncio.gather(*tasks) == [ROWS] * 4
        assert (desk.counters.requests, desk.counters.resends, desk.counters.positions) == (4, 0, 4)

    run(story)


def test_dispatch_sends_the_work_of_a_dead_replica_elsewhere_once() -> None:
    async def story() -> None:
        desk = Desk("a", "b")
        tasks = [desk.ask(i) for i in (1, 2)]
        await turn()
        desk.dispatcher.remove_replica(desk.replicas["a"], "killed")
        assert desk.outstanding("b") == [1, 2]
        for request_id in (1, 2):
            desk.answer("b", request_id)
        await asyncio.gather(*tasks)
        assert desk.counters.resends == 1

    run(story)


def test_dispatch_after_a_deadline_takes_only_one_of_two_answers() -> None:
    async def story() -> None:
        desk = Desk("a", "b", deadline_s=0.5)
        task = desk.ask(1)
        first, second = await resent(desk)
        assert desk.replicas[first].stalled
        desk.answer(second, 1)
        desk.answer(first, 1)
        assert await task is ROWS
        assert desk.counters.positions == 1

    run(story)


async def deadlines_passed(replica: Replica, number: int) -> None:
    """Wait until so many deadlines of what a replica has came, and were set anew."""
    seen: set[float] = set()
    while len(seen) <= number:
        await asyncio.sleep(0.002)
        seen.update(it.when() for it in replica.deadlines.values())


def test_dispatch_of_low_priority_waits_beyond_deadline_and_patience() -> None:
    async def story() -> None:
        desk = Desk("a", "b", deadline_s=0.01, patience_s=0.01, priority="low")
        tasks = [desk.ask(number) for number in (1, 2)]
        await turn()
        held = {name: desk.outstanding(name) for name in ("a", "b")}
        for name in held:
            await deadlines_passed(desk.replicas[name], 3)
            desk.dispatcher._check_patience("dialogue", time.monotonic())
        assert {name: desk.outstanding(name) for name in held} == held
        assert (desk.dispatcher.fatal, desk.counters.resends) == (None, 0)
        for name, (request_id,) in held.items():
            desk.answer(name, request_id)
        assert await asyncio.gather(*tasks) == [ROWS] * 2

    run(story)


def test_dispatch_of_low_priority_leaves_a_replica_that_answers_all_others() -> None:
    async def story() -> None:
        desk = Desk("a", "b", deadline_s=0.01, priority="low")
        task = desk.ask(1)
        await turn()
        first, second = ("a", "b") if desk.outstanding("a") else ("b", "a")
        desk.replicas[first].num_answers = MAX_OVERTAKING + 1
        while not desk.outstanding(second):
            await asyncio.sleep(0.01)
        assert not desk.replicas[first].stalled
        desk.answer(second, 1)
        assert await task is ROWS

    run(story)


def test_dispatch_without_replica_waits_for_one() -> None:
    async def story() -> None:
        desk = Desk()
        task = desk.ask(1)
        await turn()
        desk.replicas["late"] = desk.add("late")
        desk.answer("late", 1)
        assert await task is ROWS

    run(story)


def test_dispatch_draining_replica_gets_nothing_new() -> None:
    async def story() -> None:
        desk = Desk("a", "b")
        desk.replicas["a"].draining = True
        tasks = [desk.ask(i) for i in (1, 2, 3)]
        await turn()
        assert desk.outstanding("b") == [1, 2, 3]
        for task in tasks:
            task.cancel()

    run(story)


def test_dispatch_with_draining_replicas_alone_runs_out_of_patience() -> None:
    async def story() -> None:
        desk = Desk("a", patience_s=0.01)
        desk.dispatcher.set_draining(desk.replicas["a"], True)
        task = desk.ask(1)
        guard = asyncio.create_task(desk.dispatcher.guard_patience())
        with pytest.raises(TeacherUnavailable):
            await task
        await guard

    run(story)


def test_dispatch_that_runs_out_of_patience_says_who_was_put_aside() -> None:
    async def story() -> None:
        desk = Desk(patience_s=60)
        dispatcher = desk.dispatcher
        for kind in KIND_OF:
            endpoint = teacher_pb2.Endpoint(kind=kind, replica_id=f"{kind}-1")
            dispatcher.quarantine.put(endpoint, f"the {kind} teacher at b:1 must fit, got b.")
        for now_s in (0.0, 61.0):
            dispatcher._check_patience("dialogue", now_s)
        expected = r"60 s \(.*\)\. Put aside: the dialogue teacher at b:1 must fit, got b\. Look at"
        with pytest.raises(TeacherUnavailable, match=expected):
            await desk.ask(1)

    run(story)


def test_dispatch_teacher_that_is_optional_needs_no_replica_until_it_is_asked() -> None:
    async def story() -> None:
        desk = Desk(patience_s=60)
        dispatcher = desk.dispatcher
        assert not dispatcher.is_complete()
        dispatcher.optional.update(("dialogue", "recommendation"))
        assert dispatcher.is_complete()
        dispatcher._check_patience("dialogue", 0.0)
        dispatcher._check_patience("dialogue", 1000.0)
        assert dispatcher.fatal is None
        task = desk.ask(1)
        await turn()
        # Patience begins with the request.
        dispatcher._check_patience("dialogue", 2000.0)
        dispatcher._check_patience("dialogue", 2059.0)
        assert dispatcher.fatal is None
        dispatcher._check_patience("dialogue", 2061.0)
        with pytest.raises(TeacherUnavailable, match="no dialogue teacher answered for 60 s"):
            await task

    run(story)


def test_dispatch_replica_that_is_listed_again_gets_what_waited() -> None:
    async def story() -> None:
        desk = Desk("a")
        desk.dispatcher.set_draining(desk.replicas["a"], True)
        task = desk.ask(1)
        await turn()
        assert desk.outstanding("a") == []
        desk.dispatcher.set_draining(desk.replicas["a"], False)
        desk.answer("a", 1)
        assert await task is ROWS

    run(story)


def test_dispatch_second_bad_answer_ends_the_request() -> None:
    async def story() -> None:
        desk = Desk("a", "b")
        task = desk.ask(1)
        await turn()
        for _ in range(2):
            name = "a" if desk.outstanding("a") else "b"
            request = desk.dispatcher.take(desk.replicas[name], 1)
            assert request is not None
            desk.dispatcher.on_bad_answer(desk.replicas[name], request, WireError("torn"))
        with pytest.raises(WireError, match="answered badly, and so was the answer before: torn"):
            await task
        assert desk.counters.resends == 1

    run(story)


def test_dispatch_gives_nothing_to_who_answers_badly_while_there_is_another() -> None:
    async def story() -> None:
        desk = Desk("a", "b")
        spoilt = desk.ask(1)
        await turn()
        bad, good = ("a", "b") if desk.outstanding("a") else ("b", "a")
        request = desk.dispatcher.take(desk.replicas[bad], 1)
        assert request is not None
        desk.dispatcher.on_bad_answer(desk.replicas[bad], request, WireError("NaN"))
        tasks = [desk.ask(i) for i in range(2, 8)]
        await turn()
        assert (desk.outstanding(good), desk.outstanding(bad)) == (list(range(1, 8)), [])
        # Forgiven after a while; and asked before, if nobody else is there.
        desk.dispatcher.remove_replica(desk.replicas[good], "killed")
        assert desk.outstanding(bad) == list(range(1, 8))
        for request_id in range(1, 8):
            desk.answer(bad, request_id)
        await asyncio.gather(spoilt, *tasks)
        desk.replicas[good] = desk.add(good)
        desk.replicas[bad].avoided_until_s -= AVOIDED_S
        later = [desk.ask(i) for i in (8, 9)]
        await turn()
        assert len(desk.outstanding(bad)) == len(desk.outstanding(good)) == 1
        for task in later:
            task.cancel()

    run(story)


def test_dispatch_beyond_patience_fails_every_request() -> None:
    async def story() -> None:
        desk = Desk(patience_s=0.01)
        task = desk.ask(1)
        guard = asyncio.create_task(desk.dispatcher.guard_patience())
        desk.dispatcher.note_failure("dialogue", "a:1: UNAVAILABLE connection refused")
        told = r"answered for 0\.01 s \(the last: a:1: UNAVAILABLE connection refused\)"
        with pytest.raises(TeacherUnavailable, match=told):
            await task
        with pytest.raises(TeacherUnavailable):
            await desk.ask(2)
        await guard

    run(story)


def test_dispatch_takes_an_answer_that_comes_after_its_deadline() -> None:
    async def story() -> None:
        desk = Desk("a", "b", deadline_s=0.5)
        task = desk.ask(1)
        first, second = await resent(desk)
        desk.answer(first, 1)
        assert await task is ROWS
        # It works on the request for nothing, and so is not free until it is done.
        assert desk.outstanding(second) == [1]
        desk.answer(second, 1)
        assert desk.outstanding(second) == []
        desk.answer(second, 1)
        assert desk.counters.positions == 1

    run(story)


def test_dispatch_gives_a_new_replica_what_is_overdue_at_one_that_was_alone() -> None:
    async def story() -> None:
        desk = Desk("a", deadline_s=0.3)
        overdue = desk.ask(1)
        while not desk.replicas["a"].stalled:
            await asyncio.sleep(0.01)
        fresh = desk.ask(2)
        await turn()
        assert desk.outstanding("a") == [1, 2]
        desk.replicas["b"] = desk.add("b")
        # The other one is not late yet.
        assert (desk.outstanding("a"), desk.outstanding("b")) == ([2], [1])
        desk.answer("b", 1)
        assert await overdue is ROWS
        fresh.cancel()

    run(story)


def failure(desk: Desk, name: str, request_id: int) -> None:
    request = desk.dispatcher.take(desk.replicas[name], request_id)
    assert request is not None
    desk.dispatcher.on_failure(desk.replicas[name], request, "out of memory")


def test_dispatch_asks_a_replica_that_failed_again_only_if_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.dispatch.RETRY_S", 0.05)

    async def story() -> None:
        desk = Desk("a", "b")
        task = desk.ask(1)
        await turn()
        first, second = ("a", "b") if desk.outstanding("a") else ("b", "a")
        failure(desk, first, 1)
        assert (desk.outstanding(first), desk.outstanding(second)) == ([], [1])
        for _ in range(3):
            failure(desk, first if desk.outstanding(first) else second, 1)
            assert desk.outstanding("a") == desk.outstanding("b") == []
            while not (desk.outstanding("a") or desk.outstanding("b")):
                await asyncio.sleep(0.01)
        # As after a restart: it has not failed yet.
        desk.replicas["c"] = desk.add("c")
        failure(desk, first if desk.outstanding(first) else second, 1)
        assert desk.outstanding("c") == [1]
        desk.answer("c", 1)
        assert await task is ROWS

    run(story)


def test_dispatch_request_that_fails_for_longer_than_patience_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.dispatch.RETRY_S", 0.01)

    async def story() -> None:
        desk = Desk("a", patience_s=0.2)
        task = desk.ask(1)
        while not task.done():
            await asyncio.sleep(0.005)
            if desk.outstanding("a"):
                failure(desk, "a", 1)
        rule = r"could answer a request of 1 rows for 0.2 s \(the last: host-a:1: out of memory\)"
        with pytest.raises(TeacherUnavailable, match=rule):
            await task

    run(story)


def test_dispatch_request_waits_once_although_two_assigned_to_fail_it() -> None:
    async def story() -> None:
        desk = Desk("a", "b", deadline_s=0.5)
        task = desk.ask(1)
        first, second = await resent(desk)
        late = desk.replicas[first]
        desk.dispatcher.set_draining(late, True)
        desk.dispatcher.remove_replica(desk.replicas[second], "killed")
        request = desk.dispatcher.take(late, 1)
        assert request is not None
        desk.dispatcher.on_bad_answer(late, request, WireError("torn"))
        desk.replicas["c"] = desk.add("c")
        assert desk.replicas["c"].outbox.qsize() == 1
        desk.answer("c", 1)
        assert await task is ROWS

    run(story)


def test_dispatch_slow_replicas_finish_all_requests() -> None:
    """Every answer takes longer than the deadline, and the replicas answer one after the other."""

    async def serve(desk: Desk, name: str) -> None:
        while True:
            message = await desk.replicas[name].outbox.get()
            await asyncio.sleep(0.03)
            desk.answer(name, message.request_id)

    async def story() -> None:
        desk = Desk("a", "b", deadline_s=0.02)
        servers = [asyncio.create_task(serve(desk, name)) for name in ("a", "b")]
        answers = await asyncio.gather(*(desk.ask(i) for i in range(1, 9)))
        assert answers == [ROWS] * 8
        assert desk.counters.positions == 8
        for server in servers:
            server.cancel()

    run(story)


def test_dispatch_backlog_of_replicas_that_answer_all_the_time_is_not_sent_again() -> None:
    async def serve(desk: Desk, name: str) -> None:
        while True:
            message = await desk.replicas[name].outbox.get()
            await asyncio.sleep(0.02)
            desk.answer(name, message.request_id)

    async def story() -> None:
        desk = Desk("a", "b", deadline_s=0.2)
        servers = [asyncio.create_task(serve(desk, name)) for name in ("a", "b")]
        # 25 each: two and a half deadlines of work.
        assert await asyncio.gather(*(desk.ask(i) for i in range(1, 51))) == [ROWS] * 50
        assert desk.counters.resends == 0
        for server in servers:
            server.cancel()

    run(story)


def test_dispatch_request_that_a_busy_replica_lost_goes_to_another() -> None:
    async def story() -> None:
        desk = Desk("a", "b")
        lost = desk.ask(1)
        await turn()
        first, second = ("a", "b") if desk.outstanding("a") else ("b", "a")
        replica = desk.replicas[first]
        (request,) = replica.outstanding.values()
        for _ in range(MAX_OVERTAKING):
            replica.on_answer()
        desk.dispatcher._on_deadline(replica, request)
        assert (desk.outstanding(first), desk.outstanding(second)) == ([1], [])
        replica.on_answer()
        desk.dispatcher._on_deadline(replica, request)
        assert (desk.outstanding(first), desk.outstanding(second)) == ([], [1])
        assert not replica.stalled
        desk.answer(second, 1)
        assert await lost is ROWS

    run(story)


def test_dispatch_shares_what_a_delisted_replica_holds_once_it_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.dispatch.DELISTED_S", 0.05)

    async def story() -> None:
        desk = Desk("a", "b")
        tasks = [desk.ask(i) for i in range(1, 5)]
        await turn()
        held = desk.outstanding("a")
        desk.dispatcher.set_draining(desk.replicas["a"], True)
        while desk.outstanding("b") != [1, 2, 3, 4]:
            await asyncio.sleep(0.01)
        # The first answer counts, from whomever.
        assert desk.outstanding("a") == held
        desk.answer("a", held[0])
        for request_id in range(1, 5):
            desk.answer("b", request_id)
        assert await asyncio.gather(*tasks) == [ROWS] * 4
        assert (desk.counters.resends, desk.counters.positions) == (2, 4)

    run(story)


def test_dispatch_trusts_a_replica_again_that_was_delisted_while_it_had_no_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.dispatch.DELISTED_S", 0.0)

    async def story() -> None:
        desk = Desk("a", "b")
        desk.dispatcher.set_draining(desk.replicas["a"], True)
        await asyncio.sleep(0.01)
        desk.dispatcher.set_draining(desk.replicas["a"], False)
        tasks = [desk.ask(i) for i in range(1, 5)]
        await turn()
        assert [len(desk.outstanding(name)) for name in "ab"] == [2, 2]
        for task in tasks:
            task.cancel()

    run(story)


def test_dispatch_leaves_a_delisted_replica_alone_that_goes_on_answering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.dispatch.DELISTED_S", 0.05)

    async def story() -> None:
        desk = Desk("a", "b")
        tasks = [desk.ask(i) for i in range(1, 5)]
        await turn()
        held, others = desk.outstanding("a"), desk.outstanding("b")
        desk.dispatcher.set_draining(desk.replicas["a"], True)
        await asyncio.sleep(0.01)
        desk.answer("a", held[0])
        await asyncio.sleep(0.1)
        assert (desk.outstanding("a"), desk.outstanding("b")) == (held[1:], others)
        assert desk.counters.resends == 0
        for task in tasks:
            task.cancel()

    run(story)


def test_dispatch_gives_a_new_replica_what_the_silent_delisted_one_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.dispatch.DELISTED_S", 0.02)

    async def story() -> None:
        desk = Desk("a")
        task = desk.ask(1)
        await turn()
        desk.dispatcher.set_draining(desk.replicas["a"], True)
        while not desk.replicas["a"].stalled:
            await asyncio.sleep(0.01)
        desk.replicas["b"] = desk.add("b")
        assert (desk.outstanding("a"), desk.outstanding("b")) == ([1], [1])
        desk.answer("b", 1)
        assert await task is ROWS

    run(story)


def test_dispatch_connection_that_flaps_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.teacher_client.losses.DEATHS_APART_S", -1.0)

    async def story() -> None:
        desk = Desk("a")
        task = desk.ask(1)
        await turn()
        for _ in range(10):
            desk.dispatcher.remove_replica(desk.replicas["a"], "the stream ended")
            desk.replicas["a"] = desk.add("a")
        assert not task.done()
        desk.answer("a", 1)
        assert await task is ROWS

    run(story)


def test_dispatch_says_that_no_teacher_answers_only_after_a_moment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    for now_s in (0.0, 1.0, 1.9):
        desk.dispatcher._check_patience("dialogue", now_s)
    assert not caplog.records
    for now_s in (2.1, 2.6):
        desk.dispatcher._check_patience("dialogue", now_s)
    (told,) = caplog.messages
    assert told == "no dialogue teacher answers (the Directory lists none); waiting up to 60 s"


def test_dispatch_counts_the_replicas_of_a_lost_node_as_one_death() -> None:
    async def story() -> None:
        names = [str(i) for i in range(8)]
        desk = Desk(*names, "healthy")
        tasks = [desk.ask(i) for i in range(1, 41)]
        await turn()
        for name in names:
            desk.dispatcher.remove_replica(desk.replicas[name], "node lost")
        assert desk.outstanding("healthy") == list(range(1, 41))
        for request_id in range(1, 41):
            desk.answer("healthy", request_id)
        await asyncio.gather(*tasks)

    run(story)


def test_dispatch_request_that_outlives_its_replicas_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.losses.DEATHS_APART_S", -1.0)

    async def story() -> None:
        desk = Desk(*"abcdef")
        task = desk.ask(1)
        await turn()
        for _ in range(5):
            (name,) = [name for name in desk.replicas if desk.outstanding(name)]
            desk.dispatcher.remove_replica(desk.replicas[name], "killed")
            desk.dispatcher.on_gone(name)
        with pytest.raises(TeacherUnavailable, match="5 dialogue replicas ended while they had a"):
            await task

    run(story)


def test_dispatch_streams_that_end_are_no_deaths_while_their_replicas_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.losses.DEATHS_APART_S", -1.0)

    async def story() -> None:
        desk = Desk(*"abcdefgh")
        task = desk.ask(1)
        await turn()
        # A network that falls apart: no stream comes back, and nobody says that they are dead.
        for _ in desk.replicas:
            (name,) = [name for name in desk.replicas if desk.outstanding(name)]
            desk.dispatcher.remove_replica(desk.replicas[name], "UNAVAILABLE")
        assert not task.done()
        # Four of them were; whoever is met again was not.
        for name in "abcdefgh":
            desk.replicas[name] = desk.add(name)
            if name in "abcd":
                desk.dispatcher.remove_replica(desk.replicas[name], "UNAVAILABLE")
                desk.dispatcher.on_gone(name)
        (name,) = [name for name in desk.replicas if desk.outstanding(name)]
        desk.answer(name, 1)
        assert await task is ROWS

    run(story)


def test_dispatch_deadly_request_ends_while_it_waits_for_a_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.losses.DEATHS_APART_S", -1.0)

    async def story() -> None:
        desk = Desk(*"abcde")
        deadly, innocent = desk.ask(1), desk.ask(2)
        await turn()
        # The innocent one is answered by the first who has it alone.
        (name,) = [name for name in desk.replicas if 2 in desk.outstanding(name)]
        desk.answer(name, 2)
        for _ in range(5):
            (name,) = [name for name in desk.replicas if desk.outstanding(name)]
            desk.dispatcher.remove_replica(desk.replicas[name], "killed")
        assert not deadly.done()
        # Their leases run out one after another.
        for name in "abcde":
            assert not deadly.done()
            desk.dispatcher.on_gone(name)
            await turn()
        with pytest.raises(TeacherUnavailable, match="bytes: a, b, c, d, e "):
            await deadly
        assert await innocent is ROWS

    run(story)


def test_dispatch_replica_that_was_delisted_and_fell_silent_has_died(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.losses.DEATHS_APART_S", -1.0)

    async def story() -> None:
        desk = Desk("a")
        task = desk.ask(1)
        await turn()
        for number in range(5):
            (replica,) = desk.replicas.values()
            assert desk.outstanding(replica.replica_id) == [1]
            desk.dispatcher.set_draining(replica, True)
            replica.stalled = True
            desk.dispatcher.remove_replica(replica, "keepalive timed out")
            name = str(number)
            desk.replicas = {name: desk.add(name)}
        with pytest.raises(TeacherUnavailable, match="5 dialogue replicas ended"):
            await task

    run(story)


def test_dispatch_counts_what_answers_took() -> None:
    async def story() -> None:
        desk = Desk("a")
        task = desk.ask(1)
        await turn()
        desk.answer("a", 1)
        await task
        assert (desk.counters.queue_s, desk.counters.forward_s) == (0.25, 0.5)
        assert desk.counters.answer_s >= 0.0

    run(story)


def test_hedging_knows_what_is_slow_after_some_answers() -> None:
    hedging = Hedging(10.0)
    for number in range(FEWEST - 1):
        hedging.note("dialogue", float(number))
    assert hedging.after_s("dialogue") is None
    hedging.note("dialogue", 100.0)
    # The slowest tenth of 20 are the two above the eighteenth.
    assert hedging.after_s("dialogue") == 17.0
    assert hedging.after_s("recommendation") is None
    assert not hedging.may_hedge(ClientCounters(requests=30, hedges=3))
    assert hedging.may_hedge(ClientCounters(requests=31, hedges=3))


def test_hedging_of_no_percent_hedges_nothing() -> None:
    hedging = Hedging(0.0)
    for _ in range(FEWEST):
        hedging.note("dialogue", 1.0)
    assert hedging.after_s("dialogue") is None


async def hedged(desk: Desk) -> tuple[asyncio.Task[TargetRows], str, str]:
    """Many quick answers, then one request that both replicas have; the first asked is named."""
    for request_id in range(1, FEWEST + 1):
        task = desk.ask(request_id)
        await turn()
        desk.answer("a" if desk.outstanding("a") else "b", request_id)
        await task
    slow = desk.ask(99)
    await turn()
    first, second = ("a", "b") if desk.outstanding("a") else ("b", "a")
    while not desk.outstanding(second):
        await asyncio.sleep(0.001)
    assert desk.outstanding(first) == desk.outstanding(second) == [99]
    assert (desk.counters.hedges, desk.counters.resends) == (1, 0)
    return slow, first, second


def test_dispatch_takes_the_first_answer_of_a_hedged_request() -> None:
    async def story() -> None:
        desk = Desk("a", "b", hedge_percent=50.0)
        slow, first, second = await hedged(desk)
        # Its share is used up: the next request is not hedged, however slow this machine is.
        desk.counters.hedges = desk.counters.requests
        desk.answer(second, 99)
        assert await slow is ROWS
        # The slow one still works on it, and so is not the least busy.
        assert desk.outstanding(first) == [99]
        next_one = desk.ask(100)
        await turn()
        assert desk.outstanding(second) == [100]
        positions = desk.counters.positions
        desk.answer(first, 99)
        assert desk.counters.positions == positions
        assert desk.outstanding(first) == []
        assert not desk.replicas[first].deadlines
        desk.answer(second, 100)
        await next_one

    run(story)


def test_dispatch_knows_a_replica_as_stalled_that_never_answers_what_was_hedged() -> None:
    async def story() -> None:
        desk = Desk("a", "b", deadline_s=0.3, hedge_percent=50.0)
        slow, first, second = await hedged(desk)
        desk.answer(second, 99)
        await slow
        while not desk.replicas[first].stalled:
            await asyncio.sleep(0.01)
        assert desk.outstanding(first) == desk.outstanding(second) == []
        assert desk.counters.resends == 0

    run(story)


def test_dispatch_hedges_nothing_to_who_answered_badly() -> None:
    async def story() -> None:
        desk = Desk("a", "b", hedge_percent=50.0)
        slow, first, second = await hedged(desk)
        desk.answer(second, 99)
        desk.answer(first, 99)
        await slow
        another = desk.ask(100)
        await turn()
        bad = "a" if desk.outstanding("a") else "b"
        request = desk.dispatcher.take(desk.replicas[bad], 100)
        assert request is not None
        desk.dispatcher.on_bad_answer(desk.replicas[bad], request, WireError("garbage"))
        good = "b" if bad == "a" else "a"
        assert desk.outstanding(good) == [100]
        await asyncio.sleep(0.1)
        assert desk.outstanding(bad) == []
        desk.answer(good, 100)
        assert await another is ROWS

    run(story)


def test_dispatch_second_bad_answer_leaves_the_request_to_who_has_it_still() -> None:
    async def story() -> None:
        desk = Desk("a", "b", hedge_percent=50.0)
        slow, first, second = await hedged(desk)
        request = desk.dispatcher.take(desk.replicas[first], 99)
        assert request is not None
        for _ in range(2):
            desk.dispatcher.on_bad_answer(desk.replicas[first], request, WireError("garbage"))
        assert not slow.done()
        desk.answer(second, 99)
        assert await slow is ROWS

    run(story)


def test_dispatch_leaves_a_hedged_request_to_the_other_after_a_bad_answer() -> None:
    async def story() -> None:
        desk = Desk("a", "b", hedge_percent=50.0)
        slow, first, second = await hedged(desk)
        bad = desk.dispatcher.take(desk.replicas[first], 99)
        assert bad is not None
        desk.dispatcher.on_bad_answer(desk.replicas[first], bad, WireError("garbage"))
        assert (desk.outstanding(first), desk.outstanding(second)) == ([], [99])
        assert desk.counters.resends == 0
        desk.answer(second, 99)
        assert await slow is ROWS

    run(story)


def test_dispatch_leaves_a_hedged_request_to_the_other_when_one_dies() -> None:
    async def story() -> None:
        desk = Desk("a", "b", hedge_percent=50.0)
        slow, first, second = await hedged(desk)
        desk.dispatcher.remove_replica(desk.replicas[first], "killed")
        assert desk.counters.resends == 0
        assert desk.outstanding(second) == [99]
        desk.answer(second, 99)
        assert await slow is ROWS

    run(story)


def test_dispatch_hedges_nothing_to_a_kind_of_one_replica() -> None:
    async def story() -> None:
        desk = Desk("a", hedge_percent=50.0)
        for request_id in range(1, FEWEST + 1):
            task = desk.ask(request_id)
            await turn()
            desk.answer("a", request_id)
            await task
        task = desk.ask(99)
        await asyncio.sleep(0.05)
        desk.answer("a", 99)
        await task
        assert desk.counters.hedges == 0

    run(story)


def test_dispatch_misses_a_kind_while_it_is_needed_and_nobody_is_there() -> None:
    async def story() -> None:
        desk = Desk("a")
        # Before the first contact every kind is needed; the desk has a dialogue teacher alone.
        assert desk.dispatcher.missing() == ["recommendation"]
        desk.dispatcher.optional.update(("dialogue", "recommendation"))
        desk.dispatcher.set_draining(desk.replicas["a"], True)
        assert desk.dispatcher.missing() == []
        task = desk.ask(1)
        await turn()
        assert desk.dispatcher.missing() == ["dialogue"]
        desk.replicas["b"] = desk.add("b")
        assert desk.dispatcher.missing() == []
        desk.answer("b", 1)
        assert await task is ROWS

    run(story)
