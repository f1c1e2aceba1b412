"""Checkpoints of a run: written and loaded by DeepSpeed on all ranks, listed by rank 0.

Call every function and method here on all ranks.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine, comm
from deepspeed.checkpoint import ds_to_universal

from trainer.checkpoints import files
from trainer.checkpoints.deepspeed_writes import CheckpointWrites
from trainer.checkpoints.universal import make_universal, separate_steps
from trainer.common.errors import InputError
from trainer.config.run import RunConfig
from trainer.engine.optimiser import set_rates
from trainer.engine.ranks import on_all_ranks, on_first_rank, raise_on_all_ranks, sum_over_ranks

logger = logging.getLogger(__name__)


def find_newest(folder: Path) -> files.WholeCheckpoint | None:
    """The newest whole checkpoint, the same on all ranks.

    Rank 0 looks for all: ranks that saw different folders would wait for each other for ever.
    """
    found = on_all_ranks(lambda: files.newest_whole(folder) if comm.get_rank() == 0 else None)
    step, ranks = sum_over_ranks([0, 0] if found is None else [found.step, found.ranks])
    return files.WholeCheckpoint(step=int(step), ranks=int(ranks)) if step else None


def find_intact(folder: Path) -> files.WholeCheckpoint | None:
    """The newest checkpoint whose files are what was written; others are marked as damaged."""
    found = find_newest(folder)
    while found is not None and not _is_intact(folder / files.tag_of(found.step)):
        found = find_newest(folder)
    return found


def _is_intact(path: Path) -> bool:
    share, shares = comm.get_rank(), comm.get_world_size()
    changed = on_all_ranks(lambda: files.find_changed(path, share=share, shares=shares))
    (num_changed,) = sum_over_ranks([bool(changed)])
    if num_changed:
        problem = changed or "another rank read a file that is not what was written"
        logger.warning("checkpoint %s is damaged: %s", path, problem)
        on_first_rank(lambda: files.mark_damaged(path, problem))
    return not num_changed


def needs_universal(newest: files.WholeCheckpoint | None, zero_stage: int) -> bool:
    """Whether another number of ranks wrote the checkpoint, in as many shards."""
    return zero_stage > 0 and newest is not None and newest.ranks != comm.get_world_size()


class Checkpoints:
    """The checkpoints of one run.

    Args:
        engine: DeepSpeed's engine, whose state they hold.
        config: of the run.
    """

    def __init__(self, engine: DeepSpeedEngine, config: RunConfig) -> None:
        self._engine = engine
        self._folder = Path(config.output) / files.CHECKPOINTS_NAME
        self._zero_stage = config.zero_stage
        self._keep = config.train.keep_checkpoints
        self._writes = CheckpointWrites(engine)

    def newest_step(self) -> int:
        """The step of the newest whole checkpoint; 0: there is none."""
        newest = find_newest(self._folder)
        return 0 if newest is None else newest.step

    def save(self, step: int) -> None:
        """Write a whole checkpoint of `step`; a crash leaves the one before it in place.

        Raises:
            InputError: if a weight is not finite: the checkpoint before it is kept.
            OSError: if a rank could not write: so, too.
        """
        self._check_weights(step)
        path = self._folder / files.tag_of(step)
        on_first_rank(lambda: path.mkdir(parents=True, exist_ok=True))
        self._engine.save_checkpoint(str(self._folder), tag=path.name, save_latest=False)
        self._check_written(step, path)
        # DeepSpeed leaves its files to the page cache; what is named must survive a power cut.
        on_all_ranks(lambda: files.flush(path))
        rank, ranks = comm.get_rank(), comm.get_world_size()
        on_all_ranks(lambda: files.write_digests(path, share=rank, shares=ranks))
        on_first_rank(lambda: files.commit(self._folder, step, ranks=ranks, keep=self._keep))

    def load_newest(self) -> int:
        """Go back to the newest whole checkpoint; the number of steps done, 0 if there is none."""
        newest = find_newest(self._folder)
        on_first_rank(self._clear_damaged)
        if newest is None:
            return 0
        step, tag = newest.step, files.tag_of(newest.step)
        is_universal = needs_universal(newest, self._zero_stage)
        if is_universal:
            tag = files.universal_tag_of(step)
            on_first_rank(lambda: make_universal(self._folder, step, ds_to_universal.main))
        loaded, _ = self._engine.load_checkpoint(str(self._folder), tag=tag)
        if loaded is None:
            raise InputError(
                f"{self._folder / tag} must be a checkpoint that DeepSpeed can load, "
                "got one that it refused. Start over with train.resume=false."
            )
        if is_universal:
            optimiser: Any = self._engine.optimizer
            separate_steps(optimiser.optimizer)
        set_rates(self._engine.optimizer, self._engine.lr_scheduler)
        return step

    def forget(self) -> None:
        """Remove the checkpoints of an earlier run, so that none is ever taken for this run's."""
        on_first_rank(lambda: files.forget(self._folder))

    def _check_weights(self, step: int) -> None:
        # Stage 0 takes the step of a gradient that is not finite.
        finite = all(bool(each.detach().isfinite().all()) for each in self._engine.parameters())
        problem = InputError(
            f"all weights must be finite, got some that are not after step {step}. Start over with "
            "train.resume=false and a lower optimiser.learning_rate."
        )
        raise_on_all_ranks(None if finite else problem)

    def _check_written(self, step: int, path: Path) -> None:
        """Raise on all ranks if one could not write; nothing of this checkpoint is left behind."""
        (num_failed,) = sum_over_ranks([len(self._writes.problems)])
        if not num_failed:
            return
        on_first_rank(lambda: files.remove(path))
        raise_on_all_ranks(self._writes.error(step, path, self.newest_step()))

    def _clear_damaged(self) -> None:
        """Name damaged checkpoints and remove them: their steps will be written anew."""
        for path, problem in files.damaged(self._folder):
            logger.warning("checkpoint %s is not used and removed: %s", path, problem)
            files.remove(path)
        files.clear_unfinished(self._folder)
