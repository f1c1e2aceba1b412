"""How many replicas are wanted: a range, and the targets that move the number in it."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReplicaRange:
    """Minimum and maximum number of replicas of a kind; equal: a fixed number."""

    min: int
    max: int

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max:
            raise InputError(f"replicas must be MIN..MAX with 0 <= MIN <= MAX, got {self}.")

    @classmethod
    def of(cls, count: int) -> ReplicaRange:
        """A fixed number."""
        return cls(min=count, max=count)

    def __str__(self) -> str:
        return f"{self.min}" if self.is_fixed else f"{self.min}..{self.max}"

    @property
    def is_fixed(self) -> bool:
        """Whether minimum and maximum are equal."""
        return self.min == self.max

    def clip(self, count: int) -> int:
        """The number in the range that is nearest to count."""
        return max(self.min, min(count, self.max))


@dataclass(frozen=True, kw_only=True)
class ScalingTarget:
    """The targets of an autoscaled kind."""

    target_queue_s: float = 0.5
    """Longest wait for the device, averaged over some seconds, that starts no more replicas."""
    idle_s: float = 60.0
    """The last replica stops after this time without a request, if the minimum is 0."""
