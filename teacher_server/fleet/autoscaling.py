"""How many replicas of a kind there are: a fixed number, or one that follows the queue before them.

Serve's controller runs the policy on metrics of the replicas (load.py). At zero replicas there are
none, so Directory.Want issues a Serve call, which makes Serve start the first replica.

The policy is the one thing of ours that lives in the controller, so it also has replicas placed.
"""

from __future__ import annotations

import math

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from teacher_server.fleet.groups import APP_PREFIX
from teacher_server.fleet.ray_private import place_replicas_by
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.fleet.spreading import emptiest_node
from teacher_server.replica.load import IDLE_S, QUEUE_S, UNUSED_S

# A delay between this share of the target and the target changes nothing.
CALM = 0.5
REPORT_S = 1.0
LOOK_BACK_S = 5.0
UPSCALE_DELAY_S = 3.0
DOWNSCALE_DELAY_S = 30.0


def replicas_wanted(running: int, queue_s: float, target_s: float) -> int:
    """How many replicas keep the wait under the target; at least one, at most twice as many.

    Students keep a bounded number of requests open, so the wait is shared out over the replicas:
    the sum of the waits stays when their number changes.

    Args:
        running: replicas that run, at least one.
        queue_s: sum of the waits before each of them.
        target_s: the wanted wait.
    """
    wanted = max(1, math.ceil(queue_s / target_s))
    if wanted < running and queue_s > CALM * target_s * running:
        return running
    # A replica that has not answered yet cannot have shortened the queue.
    return min(wanted, 2 * running)


class QueuePolicy:
    """Serve's controller calls it several times a second; it must not block."""

    def __init__(self, target_queue_s: float, idle_s: float) -> None:
        self._target_s = target_queue_s
        self._idle_s = idle_s
        place_replicas_by(emptiest_node, prefix=APP_PREFIX)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, float]]:
        """The wanted number of replicas, before Serve's limits and delays; no state."""
        running = context.current_num_replicas
        if running == 0:
            # None yet, or none left: the last decision stands until a replica reports.
            return context.target_num_replicas, {}
        series = (context.raw_metrics or {}).get(IDLE_S, {}).values()
        idle_s = [points[-1].value for points in series if points]
        if len(idle_s) == running and min(idle_s) >= self._idle_s:
            return 0, {}
        queue_s = sum((context.aggregated_metrics or {}).get(QUEUE_S, {}).values())
        return replicas_wanted(running, queue_s, self._target_s), {}


class RetiringPolicy:
    """Keeps the number of replicas for as long as students use them; then there are none."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        place_replicas_by(emptiest_node, prefix=APP_PREFIX)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, float]]:
        """As `QueuePolicy`; a replica that has not said since when it is unused may be used."""
        running = context.current_num_replicas
        series = (context.raw_metrics or {}).get(UNUSED_S, {}).values()
        unused_s = [points[-1].value for points in series if points]
        if running and len(unused_s) == running and min(unused_s) >= self._drain_s:
            return 0, {}
        return context.target_num_replicas, {}


def autoscaling_config(
    replicas: ReplicaRange, scaling: ScalingTarget, first: int | None
) -> AutoscalingConfig | None:
    """Serve's configuration of a kind; None if it is off: an autoscaled kind wakes on a call.

    Args:
        replicas: the range. Fixed numbers are ranges too: a replica that was started without such
            a config would never report, and could not be autoscaled later.
        scaling: the targets within the range.
        first: replicas to start with; None: keep the present number.
    """
    if replicas.max == 0:
        return None
    policy = AutoscalingPolicy(
        policy_function=QueuePolicy,
        policy_kwargs={"target_queue_s": scaling.target_queue_s, "idle_s": scaling.idle_s},
    )
    return _config(replicas, policy, first, downscale_s=min(DOWNSCALE_DELAY_S, scaling.idle_s))


def retiring_config(most: int, drain_s: float) -> AutoscalingConfig:
    """Serve's configuration of replicas that end when no student uses them.

    Args:
        most: replicas that there may be.
        drain_s: for how long no student has used any of them when they end.
    """
    policy = AutoscalingPolicy(policy_function=RetiringPolicy, policy_kwargs={"drain_s": drain_s})
    return _config(ReplicaRange(min=0, max=most), policy, None, downscale_s=0.0)


def _config(
    replicas: ReplicaRange, policy: AutoscalingPolicy, first: int | None, *, downscale_s: float
) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=replicas.min,
        max_replicas=replicas.max,
        initial_replicas=first,
        # Ray means to replace it by variables of the environment, which the processes of a cluster
        # that runs already do not get from us.
        metrics_interval_s=REPORT_S,
        look_back_period_s=LOOK_BACK_S,
        upscale_delay_s=UPSCALE_DELAY_S,
        downscale_delay_s=downscale_s,
        # The policy has waited already, by the replicas' own clocks.
        downscale_to_zero_delay_s=0.0,
        policy=policy,
    )
