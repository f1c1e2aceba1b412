"""Adam, what it decays, and its learning rate over the steps."""

from __future__ import annotations

from typing import Any

from deepspeed.ops.adam import DeepSpeedCPUAdam
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from trainer.config.run import OptimiserConfig
from trainer.engine.host import exclusive_build

# DeepSpeedCPUAdam builds the extension of this name.
CPU_ADAM = "cpu_adam"


def make_optimiser(module: nn.Module, config: OptimiserConfig, *, on_host: bool) -> Optimizer:
    """AdamW over all parameters; `on_host`: the one that computes in the host's memory.

    Weight decay spares biases and the weights of norms, as Hugging Face's trainer does.
    """
    betas = (config.beta1, config.beta2)
    if on_host:
        # DeepSpeed requires it for offload: the same AdamW, fast on a CPU.
        with exclusive_build(CPU_ADAM):
            return DeepSpeedCPUAdam(
                _groups(module, config.weight_decay),
                lr=config.learning_rate,
                betas=betas,
                adamw_mode=True,
            )
    return AdamW(
        _groups(module, config.weight_decay), lr=config.learning_rate, betas=betas, fused=True
    )


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that are decayed, and the others; one group if there is no decay."""
    parameters = list(module.parameters())
    if not weight_decay:
        return [{"params": parameters, "weight_decay": 0.0}]
    # Biases and norms are vectors, all other weights matrices.
    matrices = [each for each in parameters if each.ndim > 1]
    vectors = [each for each in parameters if each.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_schedule(optimiser: Optimizer, config: OptimiserConfig, steps: int) -> LRScheduler:
    """Linear warm-up from 0, then constant, or falling linearly to 0 at the last of `steps`."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        if config.schedule == "constant":
            return 1.0
        return max(0.0, (steps - step) / max(1, steps - config.warmup_steps))

    return LambdaLR(optimiser, factor)


def set_rates(optimiser: Any, schedule: Any) -> None:
    """Give the next step of a resumed run the rate of its own schedule, which may have more steps.

    DeepSpeed restores the rate that the checkpoint's schedule had for that step.

    Args:
        optimiser: torch's, or DeepSpeed's around it.
        schedule: the LambdaLR of `make_schedule`, at its step.
    """
    for group, base, factor in zip(
        optimiser.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(schedule.last_epoch)
