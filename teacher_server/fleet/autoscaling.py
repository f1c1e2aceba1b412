"""How many replicas of a kind there are: a number, or as many as the queue before them asks for.

Serve's controller runs the policy on what each replica says of itself (load.py). Without a replica
there is nobody to say anything: then a student's Directory.Want becomes a call that waits in Serve
for a replica, and Serve starts the first one for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from teacher_server.replica.load import IDLE_S, QUEUE_S

# A delay between this share of the target and the target asks for no change.
CALM = 0.5
REPORT_S = 1.0
LOOK_BACK_S = 5.0
UPSCALE_DELAY_S = 3.0
DOWNSCALE_DELAY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Fewest and most replicas of a kind; the same number twice: so many, always."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise ValueError(f"replicas must be MIN..MAX with 0 <= MIN <= MAX, got {self}.")

    @classmethod
    def of(cls, count: int) -> Bounds:
        """So many, always."""
        return cls(least=count, most=count)

    def __str__(self) -> str:
        return f"{self.least}" if self.is_fixed else f"{self.least}..{self.most}"

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to decide."""
        return self.least == self.most

    def clip(self, count: int) -> int:
        """The number within the bounds that is nearest to count."""
        return min(max(count, self.least), self.most)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What an autoscaled kind is scaled by."""

    target_queue_s: float = 0.5
    """Longest wait for the device, averaged over some seconds, that asks for no more replicas."""
    idle_s: float = 60.0
    """After so long without any request the last replica goes, where none is allowed."""


def replicas_wanted(running: int, queue_s: float, target_s: float) -> int:
    """How many replicas keep the wait under the target; at least one, at most twice as many.

    Students keep a bounded number of requests open, so the wait is shared out over the replicas:
    the sum of the waits stays when their number changes.

    Args:
        running: replicas that there are, at least one.
        queue_s: the wait before each of them, summed.
        target_s: the wait wanted.
    """
    wanted = max(1, math.ceil(queue_s / target_s))
    if wanted < running and queue_s > CALM * target_s * running:
        return running
    # What has not answered yet cannot have shortened the queue.
    return min(wanted, 2 * running)


class QueuePolicy:
    """Serve calls it several times a second in its controller; it must not wait for anything."""

    def __init__(self, target_queue_s: float, idle_s: float) -> None:
        self._target_s = target_queue_s
        self._idle_s = idle_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, float]]:
        """The replicas wanted, before Serve's bounds and delays; no state."""
        running = context.current_num_replicas
        if running == 0:
            # None yet, or none left: what was decided stands until there is one to ask.
            return context.target_num_replicas, {}
        series = (context.raw_metrics or {}).get(IDLE_S, {}).values()
        idle_s = [points[-1].value for points in series if points]
        if len(idle_s) == running and min(idle_s) >= self._idle_s:
            return 0, {}
        queue_s = sum((context.aggregated_metrics or {}).get(QUEUE_S, {}).values())
        return replicas_wanted(running, queue_s, self._target_s), {}


def autoscaling_config(bounds: Bounds, pace: Pace, first: int | None) -> AutoscalingConfig | None:
    """What Serve is told; None for a kind that is off: an autoscaled one wakes when it is called.

    Args:
        bounds: fewest and most replicas. Fixed numbers are bounds too: a replica that was started
            without such a config would never report, and could not be autoscaled later.
        pace: what decides between them.
        first: replicas to start with; None: as many as there are.
    """
    if bounds.most == 0:
        return None
    return AutoscalingConfig(
        min_replicas=bounds.least,
        max_replicas=bounds.most,
        initial_replicas=first,
        metrics_interval_s=REPORT_S,
        look_back_period_s=LOOK_BACK_S,
        upscale_delay_s=UPSCALE_DELAY_S,
        downscale_delay_s=min(DOWNSCALE_DELAY_S, pace.idle_s),
        # The policy has waited already, by the replicas' own clocks.
        downscale_to_zero_delay_s=0.0,
        policy=AutoscalingPolicy(
            policy_function=QueuePolicy,
            policy_kwargs={"target_queue_s": pace.target_queue_s, "idle_s": pace.idle_s},
        ),
    )
