"""The learning rate of every step."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from trainer.config import OptimiserConfig


def make_schedule(optimiser: Optimizer, config: OptimiserConfig, steps: int) -> LRScheduler:
    """Linear warm-up from 0, then constant, or falling linearly to 0 at the last of `steps`."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        if config.schedule == "constant":
            return 1.0
        return max(0.0, (steps - step) / max(1, steps - config.warmup_steps))

    return LambdaLR(optimiser, factor)
