"""Adam and its learning rate over the steps."""

from __future__ import annotations

from deepspeed.ops.adam import DeepSpeedCPUAdam
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from trainer.config.run import OptimiserConfig
from trainer.engine.host import exclusive_build

# DeepSpeedCPUAdam builds the extension of this name.
CPU_ADAM = "cpu_adam"


def make_optimiser(module: nn.Module, config: OptimiserConfig, *, on_host: bool) -> Optimizer:
    """AdamW over all parameters; `on_host`: the one that computes in the host's memory."""
    betas = (config.beta1, config.beta2)
    if on_host:
        # DeepSpeed requires it for offload: the same AdamW, fast on a CPU.
        with exclusive_build(CPU_ADAM):
            return DeepSpeedCPUAdam(
                module.parameters(),
                lr=config.learning_rate,
                betas=betas,
                weight_decay=config.weight_decay,  # type: ignore[arg-type]  # its hint says int
                adamw_mode=True,
            )
    return AdamW(
        module.parameters(),
        lr=config.learning_rate,
        betas=betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def make_schedule(optimiser: Optimizer, config: OptimiserConfig, steps: int) -> LRScheduler:
    """Linear warm-up from 0, then constant, or falling linearly to 0 at the last of `steps`."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        if config.schedule == "constant":
            return 1.0
        return max(0.0, (steps - step) / max(1, steps - config.warmup_steps))

    return LambdaLR(optimiser, factor)
