"""Everything DeepSpeed: the only module that imports it.

The rest of the trainer sees an Engine with a rank, a device, forward, backward, sums over ranks and
checkpoints, and does not know the ZeRO stage.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import deepspeed
import torch
from deepspeed import comm
from deepspeed.accelerator import get_accelerator
from deepspeed.checkpoint import ds_to_universal
from torch import Tensor, nn

from trainer.checkpoints import files as checkpoint
from trainer.checkpoints.deepspeed_writes import CheckpointWrites
from trainer.checkpoints.universal import make_universal, separate_steps
from trainer.config.run import RunConfig
from trainer.data.model_input import ModelInput
from trainer.engine.deepspeed_config import deepspeed_config, offloads_optimiser
from trainer.engine.loss_scale import SkippedSteps
from trainer.engine.optimiser import make_optimiser, make_schedule
from trainer.engine.ranks import on_all_ranks, raise_together
from trainer.loss.soft_targets import SoftTargets
from trainer.models.language_model import LanguageModel, write_language_model

ResultT = TypeVar("ResultT")

logger = logging.getLogger(__name__)


class Engine:
    """One rank's share of the model under ZeRO."""

    def __init__(self, module: nn.Module, config: RunConfig, rank: int, world_size: int) -> None:
        self._module = module
        self.rank = rank
        self.world_size = world_size
        self.learning_rate = 0.0
        """The rate of the last step; 0 before the first."""
        on_all_ranks(lambda: _check_precision(config))
        accelerator = get_accelerator()
        assert accelerator is not None
        self.device = torch.device(accelerator.current_device_name())
        self._checkpoints = Path(config.output) / checkpoint.CHECKPOINTS_NAME
        self._keep_checkpoints = config.train.keep_checkpoints
        settings = deepspeed_config(config, world_size)
        self._is_sharded = config.zero_stage > 0
        if config.train.resume and self._needs_universal():
            settings["checkpoint"] = {**(settings.get("checkpoint") or {}), "load_universal": True}
        optimiser = make_optimiser(module, config.optimiser, on_host=offloads_optimiser(settings))
        self._engine, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimiser,
            # LRScheduler is what torch calls _LRScheduler today; DeepSpeed's hint has the old name.
            lr_scheduler=make_schedule(optimiser, config.optimiser, config.train.num_steps),  # type: ignore[arg-type]
            config=settings,
        )
        self._skips = SkippedSteps(settings)
        self._writes = CheckpointWrites(self._engine)
        self.pins_memory = self.device.type == "cuda"
        """Whether batches should wait in memory that the device can fetch by itself."""

    def forward(self, inputs: ModelInput, targets: SoftTargets) -> tuple[Tensor, Tensor]:
        """The student's loss sum and gold NLL [P] of one micro-batch."""
        return self._engine(inputs.to(self.device), targets.to(self.device))

    def evaluate(self, inputs: ModelInput, targets: SoftTargets) -> Tensor:
        """Gold NLL [P] without dropout and without gradient."""
        self._engine.eval()
        with torch.no_grad():
            _, nll_P = self.forward(inputs, targets)
        self._engine.train()
        return nll_P

    def backward(self, loss_sum: Tensor, global_count: float) -> None:
        """Add the gradient of loss_sum / global_count, counts taken over all ranks.

        DeepSpeed averages gradients over ranks, so the sum is scaled up by their number first.
        """
        self._engine.backward(loss_sum * (self.world_size / global_count), scale_wrt_gas=False)
        # Before step(): it moves the schedule on to the rate of the next step.
        self.learning_rate = float(self._engine.get_lr()[0])
        # Steps the optimiser at the last micro-batch of a step, and only counts before it.
        self._engine.step()

    def find_problem(self) -> ValueError | None:
        """The error to leave with, alike on every rank, if the last step was not taken.

        DeepSpeed skips the step of a gradient that is not finite without a word. Under fp16 that is
        how the loss scale is found, so there it is no error until it cannot end.
        """
        return self._skips.find_problem(self.was_skipped, self.loss_scale)

    @property
    def was_skipped(self) -> bool:
        """Whether the last step left the weights as they were, alike on every rank."""
        return not self._engine.was_step_applied()

    @property
    def loss_scale(self) -> float | None:
        """What the loss of the next step is multiplied with under fp16; None without."""
        if not self._engine.fp16_enabled():
            return None
        optimiser: Any = self._engine.optimizer
        return float(optimiser.cur_scale)

    @property
    def grad_norm(self) -> float | None:
        """Global gradient norm of the last step, before clipping; None if infinite or stage 0."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None or not math.isfinite(norm) else float(norm)

    def sum_over_ranks(
        self, values: Sequence[float], on_device: Tensor | None = None
    ) -> list[float]:
        """Element-wise sum over all ranks, in float64; first of those that lie on the device."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if on_device is not None:
            total = torch.cat([on_device, total])
        comm.all_reduce(total)
        return total.tolist()

    def save_checkpoint(self, step: int) -> None:
        """Write a whole checkpoint of `step`; a crash leaves the one before it in place.

        Raises:
            ValueError: if a weight is not finite: the checkpoint before it is kept.
            OSError: if a rank could not write: so, too.
        """
        self._check_weights(step)
        path = self._checkpoints / checkpoint.tag_of(step)
        self.on_first_rank(lambda: path.mkdir(parents=True, exist_ok=True))
        self._engine.save_checkpoint(str(self._checkpoints), tag=path.name, save_latest=False)
        # DeepSpeed leaves its files to the page cache; what is named must survive a power cut.
        os.sync()
        self._check_written(step, path)
        self.on_first_rank(
            lambda: checkpoint.commit(
                self._checkpoints, step, ranks=self.world_size, keep=self._keep_checkpoints
            )
        )

    def _check_written(self, step: int, path: Path) -> None:
        """Leave on all ranks if one could not write; nothing of this checkpoint is left behind."""
        (num_failed,) = self.sum_over_ranks([len(self._writes.problems)])
        if not num_failed:
            return
        self.on_first_rank(lambda: checkpoint.remove(path))
        raise_together(self._writes.error(step, path, self.newest_checkpoint()))

    def on_first_rank(self, action: Callable[[], None]) -> None:
        """Do something on rank 0 while the others wait; all leave if it fails."""
        on_all_ranks(lambda: action() if self.rank == 0 else None)

    def _check_weights(self, step: int) -> None:
        # Stage 0 takes the step of a gradient that is not finite.
        finite = all(bool(p.detach().isfinite().all()) for p in self._module.parameters())
        problem = ValueError(
            f"all weights must be finite, got some that are not after step {step}. Start over with "
            "train.resume=false and a lower optimiser.learning_rate."
        )
        raise_together(None if finite else problem)

    def forget_checkpoints(self) -> None:
        """Remove what an earlier run left, so that none of it is ever taken for this run's."""
        self.on_first_rank(lambda: checkpoint.forget(self._checkpoints))

    def newest_checkpoint(self) -> int:
        """The step of the newest whole checkpoint, 0: none; to be called on all ranks."""
        return self._newest()[0]

    def _newest(self) -> tuple[int, int]:
        """Step and ranks of the newest whole checkpoint, as all ranks know them.

        Rank 0 looks for all: ranks that saw different folders would wait for each other for ever.
        """
        found = on_all_ranks(
            lambda: checkpoint.newest_whole(self._checkpoints) if self.rank == 0 else None
        )
        step, ranks = self.sum_over_ranks([0, 0] if found is None else [found.step, found.ranks])
        return int(step), int(ranks)

    def _needs_universal(self) -> bool:
        """Whether the newest checkpoint is in as many shards as there were other ranks."""
        step, ranks = self._newest()
        return self._is_sharded and bool(step) and ranks != self.world_size

    def load_newest_checkpoint(self) -> int:
        """Go back to the newest whole checkpoint; the number of steps done, 0 if there is none."""
        step = self.newest_checkpoint()
        self.on_first_rank(self._clear_damaged)
        if step == 0:
            return 0
        tag, is_universal = checkpoint.tag_of(step), self._needs_universal()
        if is_universal:
            tag = checkpoint.universal_tag_of(step)
            self.on_first_rank(
                lambda: make_universal(self._checkpoints, step, ds_to_universal.main)
            )
        loaded, _ = self._engine.load_checkpoint(str(self._checkpoints), tag=tag)
        if loaded is None:
            raise ValueError(
                f"{self._checkpoints / tag} must be a checkpoint that DeepSpeed can load, "
                "got one that it refused. Start over with train.resume=false."
            )
        if is_universal:
            optimiser: Any = self._engine.optimizer
            separate_steps(optimiser.optimizer)
        return step

    def _clear_damaged(self) -> None:
        """Say which checkpoints are no good, and make room for those that will be written anew."""
        for path, problem in checkpoint.damaged(self._checkpoints):
            logger.warning("checkpoint %s is not used and removed: %s", path, problem)
            checkpoint.remove(path)
        checkpoint.clear_unfinished(self._checkpoints)

    def export(self, model: LanguageModel, folder: Path) -> None:
        """Write the language model from whole parameters, on rank 0."""
        state = self._whole_state(model)
        self.on_first_rank(lambda: write_language_model(folder, model, state))

    def _whole_state(self, model: LanguageModel) -> dict[str, Tensor] | None:
        """Rank 0: the state dict with whole parameters; others: None.

        Gathered one by one and kept on one rank alone: all at once on all ranks, as one context
        of GatheredParameters has them, is a whole model more in each rank's memory.
        """
        if self._engine.zero_optimization_stage() < 3:
            return model.module.state_dict() if self.rank == 0 else None
        whole: dict[int, Tensor] = {}
        for parameter in model.module.parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if self.rank == 0:
                    whole[id(parameter)] = parameter.detach().to("cpu", copy=True)
        if self.rank != 0:
            return None
        # keep_vars: the parameters themselves, by which the whole ones are found.
        state: dict[str, Any] = model.module.state_dict(keep_vars=True)
        state.update((name, whole[id(it)]) for name, it in state.items() if id(it) in whole)
        return state


def _check_precision(config: RunConfig) -> None:
    accelerator = get_accelerator()
    assert accelerator is not None
    # It gives None for no on some CPUs.
    if config.train.precision == "fp16" and not accelerator.is_fp16_supported():
        raise ValueError(
            f"train.precision must be float32 or bf16 on this {accelerator.device_name()}, which "
            "cannot compute in it, got fp16. Take bf16."
        )
