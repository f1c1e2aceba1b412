from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace

import grpc
import pytest
from ray.serve.config import AutoscalingContext

from protos import teacher_pb2, teacher_pb2_grpc
from teacher_server.fleet.autoscaling import (
    QueuePolicy,
    autoscaling_config,
    replicas_wanted,
    retiring_config,
)
from teacher_server.fleet.directory_server import DirectoryServer
from teacher_server.fleet.leases import Lease
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.replica.load import IDLE_S, QUEUE_S, UNUSED_S, LoadMeter


def test_load_meter_reports_the_longest_wait_and_how_long_nobody_asked() -> None:
    now = [0.0]
    meter = LoadMeter(clock=lambda: now[0])
    now[0] = 7.0
    assert meter.report([]) == {QUEUE_S: 0.0, IDLE_S: 7.0}
    now[0] = 10.0
    assert meter.report([9.0, 8.0]) == {QUEUE_S: 2.0, IDLE_S: 0.0}
    now[0] = 11.0
    meter.round_starts([8.0, 9.0])
    now[0] = 15.0
    # What waited until 11 counts once, at the next report, and the device is busy still.
    assert meter.report([]) == {QUEUE_S: 3.0, IDLE_S: 0.0}
    meter.round_ends()
    now[0] = 16.5
    assert meter.report([]) == {QUEUE_S: 0.0, IDLE_S: 1.5}


def test_bounds_clip_and_name_a_range_or_a_number() -> None:
    some, two = ReplicaRange(min=0, max=4), ReplicaRange.of(2)
    assert (str(some), str(two)) == ("0..4", "2")
    assert [some.clip(count) for count in (1, 9)] == [1, 4]
    assert [two.clip(count) for count in (0, 9)] == [2, 2]
    with pytest.raises(ValueError, match=r"0 <= MIN <= MAX, got 3\.\.1"):
        ReplicaRange(min=3, max=1)


@pytest.mark.parametrize(
    ("running", "queue_s", "wanted"),
    [
        (1, 0.0, 1),  # Asked, and fast enough.
        (1, 0.5, 1),
        (1, 0.9, 2),
        (1, 60.0, 2),  # Twice as many, and then it is seen what is left.
        (2, 2.4, 4),  # 1.2 s before each of two: five, if it were not for the rule of two.
        (3, 1.6, 4),
        (4, 1.2, 4),  # Three would do, with nothing to spare.
        (4, 0.9, 2),
        (4, 0.0, 1),
    ],
)
def test_replicas_wanted_share_out_the_wait(running: int, queue_s: float, wanted: int) -> None:
    assert replicas_wanted(running, queue_s, 0.5) == wanted


def context(
    running: int, target: int, queue_s: list[float], idle_s: list[float], name: str = IDLE_S
) -> AutoscalingContext:
    """As Serve's controller makes it; of each replica that has reported its last two points."""
    return AutoscalingContext(
        deployment_id=None,  # type: ignore[arg-type]
        deployment_name="DialogueTeacher",
        app_name="conkd-dialogue",
        current_num_replicas=running,
        target_num_replicas=target,
        running_replicas=[],
        total_num_requests=0,
        total_queued_requests=0,
        aggregated_metrics={QUEUE_S: dict(enumerate(queue_s))},  # type: ignore[arg-type]
        raw_metrics={
            name: {  # type: ignore[dict-item]
                index: [SimpleNamespace(value=0.0), SimpleNamespace(value=value)]
                for index, value in enumerate(idle_s)
            }
        },
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=4,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=None,
    )


def test_queue_policy_sums_the_waits_and_goes_to_zero_when_all_are_idle() -> None:
    policy = QueuePolicy(target_queue_s=0.5, idle_s=60.0)
    assert policy(context(2, 2, [0.9, 0.5], [0.0, 0.0])) == (3, {})
    assert policy(context(2, 2, [0.0, 0.0], [61.0, 59.0])) == (1, {})
    assert policy(context(2, 2, [0.0, 0.0], [61.0, 60.0])) == (0, {})
    # One that has not reported yet may be at work.
    assert policy(context(2, 2, [0.0], [61.0])) == (1, {})


def test_queue_policy_without_a_running_replica_stands_by_what_was_decided() -> None:
    policy = QueuePolicy(target_queue_s=0.5, idle_s=60.0)
    assert policy(context(0, 1, [], [])) == (1, {})
    assert policy(context(0, 0, [], [])) == (0, {})


def test_replicas_that_retire_stay_as_many_until_none_was_used_for_long_enough() -> None:
    config = retiring_config(4, drain_s=60.0)
    assert (config.min_replicas, config.max_replicas) == (0, 4)
    assert (config.initial_replicas, config.downscale_delay_s) == (None, 0.0)
    # As the controller has it: from the pickled class and the arguments.
    policy = config.policy.get_policy()(**config.policy.policy_kwargs)

    def wanted(running: int, target: int, unused_s: list[float]) -> int:
        return policy(context(running, target, [9.0], unused_s, UNUSED_S))[0]

    assert wanted(2, 2, [61.0, 0.0]) == 2
    assert wanted(2, 2, [61.0, 60.0]) == 0
    # One that has not reported yet, or is of a release that does not, may be used.
    assert wanted(2, 2, [61.0]) == 2
    # One that died is started again; those that ended are not.
    assert wanted(0, 1, []) == 1
    assert wanted(0, 0, []) == 0


def test_autoscaling_config_of_numbers_and_ranges() -> None:
    scaling = ScalingTarget(target_queue_s=0.2, idle_s=20.0)
    config = autoscaling_config(ReplicaRange(min=0, max=4), scaling, first=1)
    assert config is not None
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (0, 1, 4)
    assert config.downscale_delay_s == 20.0
    # As the controller has it: from the pickled class and the arguments.
    policy = config.policy.get_policy()(**config.policy.policy_kwargs)
    assert policy(context(1, 1, [0.3], [0.0])) == (2, {})
    fixed = autoscaling_config(ReplicaRange.of(2), scaling, first=None)
    assert fixed is not None and (fixed.min_replicas, fixed.max_replicas) == (2, 2)
    assert autoscaling_config(ReplicaRange.of(0), scaling, first=None) is None


def test_want_wakes_the_kinds_that_nobody_serves() -> None:
    async def scenario() -> list[str]:
        woken: list[str] = []
        retiring = {"recommendation": ["old"]}
        server = DirectoryServer(settle_s=0.0, wake=woken.append, retiring=retiring)
        port = await server.start("127.0.0.1", 0)
        lease = Lease(kind="dialogue", address="127.0.0.1:1", replica_id="a", pid=1)
        await server.service.renew(lease)
        # One that is for the runs alone that have it already.
        await server.service.renew(
            dataclasses.replace(lease, kind="recommendation", replica_id="r", weights_digest="old")
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = teacher_pb2_grpc.DirectoryStub(channel)
            kinds = ["dialogue", "recommendation", "recommendation"]
            await stub.Want(teacher_pb2.WantRequest(kinds=kinds))
            await server.service.release("a")
            # One that may not fit the student that asks.
            await server.service.renew(dataclasses.replace(lease, replica_id="b", lease_id="c"))
            await stub.Want(teacher_pb2.WantRequest(kinds=["dialogue"]))
        await server.stop(0.1)
        return woken

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == ["recommendation", "dialogue"]
