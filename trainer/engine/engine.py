"""One rank's step under ZeRO: forward, backward, optimiser step and sums over ranks.

The rest of the trainer sees an Engine with a rank and a device, and does not know the ZeRO stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed import comm
from torch import Tensor, nn

from trainer.checkpoints.files import CHECKPOINTS_NAME
from trainer.config.run import RunConfig
from trainer.data.model_input import ModelInput
from trainer.engine import ranks
from trainer.engine.checkpoints import find_intact, needs_universal
from trainer.engine.deepspeed_config import deepspeed_config, offloads_optimiser
from trainer.engine.host import check_precision
from trainer.engine.loss_scale import SkippedSteps
from trainer.engine.optimiser import make_optimiser, make_schedule
from trainer.loss.soft_targets import SoftTargets


class Engine:
    """One rank's share of the model under ZeRO.

    Attributes:
        rank: this process among the ranks, from 0.
        world_size: number of ranks.
        device: where this rank computes.
        deepspeed: DeepSpeed's own engine, for the files of this room.
        learning_rate: of the last step; 0 before the first.
        pins_memory: batches should wait in memory that the device can fetch by itself.
    """

    def __init__(self, module: nn.Module, config: RunConfig) -> None:
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()
        ranks.on_all_ranks(lambda: check_precision(config.train.precision))
        self.device = ranks.current_device()
        self.pins_memory = self.device.type == "cuda"
        self.learning_rate = 0.0
        settings = _settings(config, self.world_size)
        optimiser = make_optimiser(module, config.optimiser, on_host=offloads_optimiser(settings))
        self.deepspeed, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimiser,
            # LRScheduler is what torch calls _LRScheduler today; DeepSpeed's hint has the old name.
            lr_scheduler=make_schedule(optimiser, config.optimiser, config.train.num_steps),  # type: ignore[arg-type]
            config=settings,
        )
        self._skips = SkippedSteps(settings)

    def forward(self, inputs: ModelInput, targets: SoftTargets) -> tuple[Tensor, Tensor, Tensor]:
        """The student's loss sum, gold NLL [P] and closeness to its teachers of one micro-batch.

        The latter are sums by `watched.CLOSE_KINDS` and `closeness.CLOSE_SUMS`.
        """
        return self.deepspeed(inputs.to(self.device), targets.to(self.device))

    def evaluate(self, inputs: ModelInput, targets: SoftTargets) -> Tensor:
        """Gold NLL [P] without dropout and without gradient."""
        self.deepspeed.eval()
        with torch.no_grad():
            _, nll_P, _ = self.forward(inputs, targets)
        self.deepspeed.train()
        return nll_P

    def backward(self, loss_sum: Tensor, global_count: float) -> None:
        """Add the gradient of loss_sum / global_count, counts taken over all ranks.

        DeepSpeed averages gradients over ranks, so the sum is scaled up by their number first.
        """
        self.deepspeed.backward(loss_sum * (self.world_size / global_count), scale_wrt_gas=False)
        # Before step(): it moves the schedule on to the rate of the next step.
        self.learning_rate = float(self.deepspeed.get_lr()[0])
        # Steps the optimiser at the last micro-batch of a step, and only counts before it.
        self.deepspeed.step()

    def find_problem(self) -> ValueError | None:
        """The error of the last step if it was not taken; the same on every rank.

        DeepSpeed skips the step of a gradient that is not finite without a message. Under fp16 that
        is how the loss scale is found, so there it is an error only once the search cannot end.
        """
        return self._skips.find_problem(self.was_skipped, self.loss_scale)

    @property
    def was_skipped(self) -> bool:
        """Whether the last step left the weights as they were; the same on every rank."""
        return not self.deepspeed.was_step_applied()

    @property
    def loss_scale(self) -> float | None:
        """Factor of the next step's loss under fp16; None without."""
        if not self.deepspeed.fp16_enabled():
            return None
        optimiser: Any = self.deepspeed.optimizer
        return float(optimiser.cur_scale)

    @property
    def grad_norm(self) -> float | None:
        """Global gradient norm of the last step, before clipping; None if infinite or stage 0."""
        norm = self.deepspeed.get_global_grad_norm()
        return None if norm is None or not math.isfinite(norm) else float(norm)

    def sum_over_ranks(
        self, values: Sequence[float], on_device: Tensor | None = None
    ) -> list[float]:
        """Collective: see `ranks.sum_over_ranks`."""
        return ranks.sum_over_ranks(values, on_device)

    def on_first_rank(self, action: Callable[[], None]) -> None:
        """Collective: see `ranks.on_first_rank`."""
        ranks.on_first_rank(action)


def _settings(config: RunConfig, world_size: int) -> dict[str, Any]:
    settings = deepspeed_config(config, world_size)
    folder = Path(config.output) / CHECKPOINTS_NAME
    if config.train.resume and needs_universal(find_intact(folder), config.zero_stage):
        # DeepSpeed reads it when it is initialised.
        settings["checkpoint"] = {**(settings.get("checkpoint") or {}), "load_universal": True}
    return settings
