from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.codec import TargetRows
from protos.teacher_pb2 import Compression
from teacher_server.replica.batching import Batcher, BatchResult
from teacher_server.replica.device_health import MAX_FAILURES, DeviceHealth
from teacher_server.replica.load import IDLE_S, QUEUE_S
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.device_batches import BatchLimits, plan_batches, score_together
from teacher_server.scoring.score_work import ScoreWork, columns_of
from tests.support.fake_teacher import FakeTeacher
from trainer.data.model_input import SequenceInput

CUT = Compression(top_k=4)


def work(
    *lengths: int,
    cut: Compression = CUT,
    num_bytes: int = 100,
    first: int = 0,
    run_id: str = "",
    is_low: bool = False,
) -> ScoreWork:
    inputs = tuple(
        SequenceInput.at_end(
            num_rows=min(2, length),
            tokens=np.arange(first + i, first + i + length, dtype=np.int32) % 9,
        )
        for i, length in enumerate(lengths)
    )
    return ScoreWork(
        columns_of(inputs),
        cut,
        8 * len(inputs),
        num_bytes,
        1000,
        run_id=run_id,
        is_low=is_low,
    )


def batcher_of(
    teacher: FakeTeacher, limits: BatchLimits, device: DeviceHealth | None = None
) -> Batcher[TargetRows]:
    return Batcher(
        functools.partial(score_together, teacher.score),
        limits,
        counters=ReplicaCounters(),
        device=device or DeviceHealth(),
    )


def assert_same_rows(one: TargetRows, other: TargetRows) -> None:
    for name in ("counts_R", "ids_E", "log_probs_E", "tail_R", "item_mass_R"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    budget=st.integers(1, 120),
    most=st.integers(1, 10),
)
def test_plan_batches_holds_each_example_once_within_the_budget(
    lengths: list[int], budget: int, most: int
) -> None:
    plan = plan_batches(lengths, token_budget=budget, max_examples=most)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert len(batch) <= most
        assert len(batch) == 1 or padded <= budget


def test_plan_batches_puts_like_lengths_together() -> None:
    assert plan_batches([1, 9, 2, 8], token_budget=18, max_examples=8) == [[1, 3], [2, 0]]


def test_score_together_gives_each_request_what_it_gets_alone() -> None:
    teacher = FakeTeacher()
    works = [work(3, 7, 1), work(5, first=2), work(2, 6, first=4)]
    limits = BatchLimits(token_budget=8)
    together = score_together(teacher.score, works, limits)
    assert len(teacher.batches) > 1
    for one, rows in zip(works, together, strict=True):
        assert_same_rows(rows, FakeTeacher().score(one.inputs, CUT))


def test_batcher_joins_waiting_requests_of_one_cut_into_one_round() -> None:
    async def scenario() -> list[list[int]]:
        teacher = FakeTeacher()
        batcher = batcher_of(teacher, BatchLimits())
        answers = [
            await batcher.submit(work(3), "a"),
            await batcher.submit(work(4, cut=Compression(top_k=2)), "b"),
            await batcher.submit(work(5), "a"),
        ]
        batcher.start()
        scored = await asyncio.gather(*answers)
        await batcher.close()
        assert scored[1].rows.counts_R.tolist() == [2, 2]
        assert scored[0].rows.counts_R.tolist() == [4, 4]
        return teacher.batches

    assert asyncio.run(scenario()) == [[5, 3], [4]]


def test_batcher_quick_device_gathers_what_comes_before_its_next_round() -> None:
    async def scenario() -> list[list[int]]:
        teacher = FakeTeacher()
        # The rounds are told by what is in them, not by the clock: the second lasts 0.3 s.
        batcher = batcher_of(teacher, BatchLimits(token_budget=10, max_delay_s=0.3))
        first = [await batcher.submit(work(6)) for _ in range(2)]
        batcher.start()
        await first[0]
        answers = [*first[1:], await batcher.submit(work(3))]
        await asyncio.gather(*answers)
        await batcher.close()
        return teacher.batches

    assert asyncio.run(scenario()) == [[6], [6], [3]]


def test_batcher_full_round_waits_for_nobody() -> None:
    async def scenario() -> list[list[int]]:
        teacher = FakeTeacher()
        batcher = batcher_of(teacher, BatchLimits(token_budget=10, max_delay_s=1000.0))
        batcher.start()
        first = await batcher.submit(work(6))
        await asyncio.sleep(0.05)
        second = await batcher.submit(work(6, first=2))
        await asyncio.wait_for(first, 10)
        assert not second.done()
        await batcher.close()
        return teacher.batches

    assert asyncio.run(scenario()) == [[6]]


def test_batcher_keeps_a_round_within_the_budget() -> None:
    async def scenario() -> list[list[int]]:
        teacher = FakeTeacher()
        batcher = batcher_of(teacher, BatchLimits(token_budget=10))
        answers = [await batcher.submit(work(6)) for _ in range(3)]
        batcher.start()
        await asyncio.gather(*answers)
        await batcher.close()
        return teacher.batches

    assert asyncio.run(scenario()) == [[6], [6], [6]]


def test_batcher_with_a_full_queue_holds_the_next_request_back() -> None:
    async def scenario() -> None:
        batcher = batcher_of(FakeTeacher(), BatchLimits(max_queue_bytes=250))
        answers = [await batcher.submit(work(2), stream) for stream in "ab"]
        third = asyncio.create_task(batcher.submit(work(2), "c"))
        await asyncio.wait([third], timeout=0.05)
        assert not third.done()
        batcher.start()
        await asyncio.gather(*answers, await third)
        await batcher.close()

    asyncio.run(scenario())


def test_batcher_takes_a_request_larger_than_the_queue_when_it_is_empty() -> None:
    async def scenario() -> int:
        batcher = batcher_of(FakeTeacher(), BatchLimits(max_queue_bytes=10))
        batcher.start()
        scored = await (await batcher.submit(work(2, num_bytes=1000)))
        await batcher.close()
        return scored.rows.num_rows

    assert asyncio.run(scenario()) == 2


def test_batcher_drops_a_cancelled_request_without_scoring_it() -> None:
    async def scenario() -> list[list[int]]:
        teacher = FakeTeacher()
        batcher = batcher_of(teacher, BatchLimits(max_queue_bytes=200))
        gone, kept = await batcher.submit(work(3), "a"), await batcher.submit(work(4), "b")
        gone.cancel()
        batcher.start()
        await kept
        await (await batcher.submit(work(5, num_bytes=200)))
        await batcher.close()
        return teacher.batches

    assert asyncio.run(scenario()) == [[4], [5]]


def test_batcher_lives_on_after_a_failed_round_and_is_unhealthy_after_several() -> None:
    async def scenario() -> None:
        teacher, device = FakeTeacher(), DeviceHealth()
        batcher = batcher_of(teacher, BatchLimits(), device)
        batcher.start()
        teacher.fails = True
        for _ in range(MAX_FAILURES - 1):
            with pytest.raises(RuntimeError, match="out of memory"):
                await (await batcher.submit(work(3)))
        assert not batcher.problem
        with pytest.raises(RuntimeError, match="out of memory"):
            await (await batcher.submit(work(3)))
        assert batcher.problem.endswith("the last: RuntimeError: out of memory")
        teacher.fails = False
        await (await batcher.submit(work(3)))
        # Rows count as good once they could be encoded.
        assert batcher.problem
        device.succeeded()
        assert not batcher.problem
        await batcher.close()

    asyncio.run(scenario())


def test_batcher_that_ends_with_a_bug_leaves_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        def score_round(works: Sequence[ScoreWork], limits: BatchLimits) -> list[TargetRows]:
            raise KeyError("a bug")

        batcher: Batcher[TargetRows] = Batcher(
            score_round,
            BatchLimits(token_budget=4),
            counters=ReplicaCounters(),
            device=DeviceHealth(),
        )
        answers = [await batcher.submit(work(3)) for _ in range(3)]
        batcher.start()
        done = await asyncio.gather(*answers, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in done)
        assert batcher.problem == "rounds are no longer run: KeyError: 'a bug'"
        with pytest.raises(RuntimeError, match="got an ended batcher"):
            await batcher.submit(work(3))
        await batcher.close()

    asyncio.run(scenario())
    assert "KeyError: 'a bug'" in caplog.text


def test_batcher_request_that_fails_leaves_those_beside_it_unharmed() -> None:
    async def scenario() -> None:
        teacher = FakeTeacher()
        teacher.fails_above = 5
        batcher = batcher_of(teacher, BatchLimits())
        answers = [await batcher.submit(work(length)) for length in (3, 9, 4)]
        batcher.start()
        scored = await asyncio.gather(*answers, return_exceptions=True)
        assert isinstance(scored[1], RuntimeError)
        for length, result in ((3, scored[0]), (4, scored[2])):
            assert isinstance(result, BatchResult)
            alone = FakeTeacher().score(work(length).inputs, CUT)
            assert_same_rows(result.rows, alone)
        assert not batcher.problem
        await batcher.close()

    asyncio.run(scenario())


def test_batcher_whose_device_does_not_come_back_is_unhealthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        teacher = FakeTeacher()
        teacher.gate = threading.Event()
        batcher = batcher_of(teacher, BatchLimits())
        batcher.start()
        answer = await batcher.submit(work(3))
        await asyncio.to_thread(teacher.started.wait, 20)
        assert not batcher.problem
        with monkeypatch.context() as patch:
            patch.setattr("teacher_server.replica.batching.MAX_ROUND_S", 0.0)
            assert batcher.problem.startswith("the device has not come back for ")
            teacher.gate.set()
            await answer
            await asyncio.sleep(0.01)
            # An idle device is not one that is away.
            assert not batcher.problem
        await batcher.close()

    asyncio.run(scenario())


def test_batcher_reports_queue_and_forward_time() -> None:
    async def scenario() -> tuple[float, float]:
        batcher = batcher_of(FakeTeacher(), BatchLimits())
        batcher.start()
        scored = await (await batcher.submit(work(3)))
        await batcher.close()
        return scored.queue_s, scored.forward_s

    queue_s, forward_s = asyncio.run(scenario())
    assert queue_s >= 0.0
    assert forward_s > 0.0


def test_batcher_shares_a_saturated_device_by_runs_whatever_their_number_of_streams() -> None:
    streams = {"one": ["a"], "eight": list("bcdefghi"), "": ["j"]}
    rounds: list[list[str]] = []

    def score_round(works: Sequence[ScoreWork], limits: BatchLimits) -> list[None]:
        rounds.append([each.run_id for each in works])
        return [None] * len(works)

    async def ask(batcher: Batcher[None], run_id: str, stream: str) -> None:
        while len(rounds) < 150:
            await (await batcher.submit(work(3, run_id=run_id), stream))

    async def scenario() -> None:
        batcher: Batcher[None] = Batcher(
            score_round,
            BatchLimits(token_budget=30, max_delay_s=0.0),
            counters=ReplicaCounters(),
            device=DeviceHealth(),
        )
        asking = [
            asyncio.create_task(ask(batcher, run_id, stream))
            for run_id, of_run in streams.items()
            for stream in of_run
            for _ in range(12)
        ]
        await asyncio.sleep(0)
        batcher.start()
        await asyncio.gather(*asking[:1])
        for task in asking:
            task.cancel()
        await batcher.close()

    asyncio.run(scenario())
    served = Counter(run_id for of_round in rounds for run_id in of_round)
    assert served.keys() == streams.keys()
    assert max(served.values()) <= 1.1 * min(served.values())


def test_batcher_fills_what_normal_requests_leave_of_a_round_with_low_ones() -> None:
    async def scenario() -> list[list[int]]:
        teacher = FakeTeacher()
        batcher = batcher_of(teacher, BatchLimits(token_budget=8))
        answers = [await batcher.submit(work(4, is_low=True), "low") for _ in range(4)]
        answers += [await batcher.submit(work(3), "a") for _ in range(3)]
        batcher.start()
        await asyncio.gather(*answers)
        await batcher.close()
        return teacher.batches

    assert asyncio.run(scenario()) == [[3, 3], [4, 3], [4, 4], [4]]


def test_batcher_takes_no_low_request_while_a_normal_one_of_another_cut_waits() -> None:
    async def scenario() -> list[list[int]]:
        teacher = FakeTeacher()
        batcher = batcher_of(teacher, BatchLimits())
        answers = [
            await batcher.submit(work(4, is_low=True), "low"),
            await batcher.submit(work(3), "a"),
            await batcher.submit(work(2, cut=Compression(top_k=2)), "b"),
        ]
        batcher.start()
        await asyncio.gather(*answers)
        await batcher.close()
        return teacher.batches

    assert asyncio.run(scenario()) == [[3], [2], [4]]


def test_batcher_lets_low_requests_fill_a_quarter_of_the_queue_alone() -> None:
    async def scenario() -> None:
        batcher = batcher_of(FakeTeacher(), BatchLimits(max_queue_bytes=400))
        asking = [
            asyncio.create_task(batcher.submit(work(2, is_low=True), f"low{number}"))
            for number in range(3)
        ]
        await asyncio.sleep(0.01)
        assert [task.done() for task in asking] == [True, False, False]
        for number in range(3):
            await batcher.submit(work(2), f"normal{number}")
        assert batcher.num_waiting == 4
        batcher.start()
        assert (await (await asking[2])).rows.num_rows == 2
        await batcher.close()

    asyncio.run(scenario())


def test_batcher_asks_for_no_other_replica_because_low_requests_wait() -> None:
    async def scenario() -> None:
        batcher = batcher_of(FakeTeacher(), BatchLimits())
        await batcher.submit(work(3, is_low=True))
        await asyncio.sleep(0.001)
        assert batcher.report_load() == {QUEUE_S: 0.0, IDLE_S: 0.0}
        assert batcher.queue_delay_s > 0.0
        await batcher.submit(work(3))
        await asyncio.sleep(0.001)
        assert batcher.report_load()[QUEUE_S] > 0.0
        await batcher.close()

    asyncio.run(scenario())


def test_batcher_counts_device_time_of_a_run_by_its_tokens() -> None:
    async def scenario() -> None:
        counters = ReplicaCounters()
        batcher: Batcher[None] = Batcher(
            lambda works, _: [None] * len(works),
            BatchLimits(),
            counters=counters,
            device=DeviceHealth(),
        )
        works = [work(3, run_id="a"), work(4, 5, run_id="b"), work(2)]
        answers = [await batcher.submit(one) for one in works]
        batcher.start()
        await asyncio.gather(*answers)
        await batcher.close()
        device_s = {run_id: it.device_s for run_id, it in batcher.runs.now().items()}
        whole_s = counters.forward_s.total
        assert device_s == {
            "a": pytest.approx(whole_s * 3 / 14),
            "b": pytest.approx(whole_s * 9 / 14),
        }
        assert batcher.runs.of("").device_s == pytest.approx(whole_s * 2 / 14)

    asyncio.run(scenario())
