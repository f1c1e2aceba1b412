"""Checkpoint policy: when to write, what to keep, when a run is over, what may change on resume.

Everything here is pure: no files, no ranks, no engine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config.run import TrainConfig

OF_A_NODE = (
    *("output", "data", "classifier", "item_vectors", "knowledge", "deepspeed"),
    *("student.pretrained", "teachers.", "watch."),
)
"""Settings that may differ between the ranks of a run and on resume: paths, as provenance.py
compares what is there, and what does not affect the loss. A trailing dot stands for all settings of
a group."""
MAY_CHANGE = (
    *OF_A_NODE,
    *("train.steps", "train.epochs", "train.checkpoint_every", "train.keep_checkpoints"),
    *("train.resume", "train.loss_chunk_size", "train.micro_batch_size"),
    "student.activation_checkpointing",
)
"""Settings that may differ on resume, because they do not affect the loss."""


def may_change(key: str) -> bool:
    """Whether a run may be resumed with another value of the dotted setting `key`."""
    return _is_one_of(key, MAY_CHANGE)


def may_differ_between_ranks(key: str) -> bool:
    """Whether ranks may train together with different values of the dotted setting `key`."""
    return _is_one_of(key, OF_A_NODE)


def _is_one_of(key: str, settings: Collection[str]) -> bool:
    return any(key == each or (each.endswith(".") and key.startswith(each)) for each in settings)


def is_due(step: int, config: TrainConfig) -> bool:
    """Whether a checkpoint is written after `step` steps."""
    return step % config.checkpoint_every == 0 or step == config.num_steps


def is_due_on_error(step: int, newest: int) -> bool:
    """Whether a run that stops after `step` good steps must save them first.

    Args:
        newest: the step of the newest whole checkpoint; 0: there is none.
    """
    return newest < step


def checkpoints_to_keep(whole: Collection[int], keep: int) -> set[int]:
    """Of the steps of whole checkpoints those that stay: the newest `keep`."""
    return set(sorted(whole)[-keep:])


def exports_to_keep(exported: Collection[int], oldest_checkpoint: int) -> set[int]:
    """Of the steps of exported best models those that stay.

    The run may go back to any checkpoint. There is an export for each lowest loss so far, so the
    best model of the oldest checkpoint is the last one that is not after it; older ones may go.
    """
    needed = max((step for step in exported if step <= oldest_checkpoint), default=0)
    return {step for step in exported if step >= needed}


@dataclass(frozen=True, kw_only=True)
class BestSoFar:
    """The validation with the lowest loss."""

    step: int = 0
    """0: nothing was validated yet."""
    nll: float = math.inf
    """Nats per token."""
    misses: int = 0
    """Validations since then; an equal loss is a miss."""

    def after(self, step: int, nll: float) -> BestSoFar:
        """The best once the loss after `step` is known, too."""
        if nll < self.nll:
            return BestSoFar(step=step, nll=nll)
        return BestSoFar(step=self.step, nll=self.nll, misses=self.misses + 1)

    def is_over(self, patience: int | None) -> bool:
        """Whether the run ends early: `patience` validations without a lower loss; None: never."""
        return patience is not None and self.misses >= patience


def bests_of(history: Iterable[Mapping[str, Any]]) -> list[BestSoFar]:
    """The best before any validation, and after each of a log's "valid" lines, in order."""
    return list(
        itertools.accumulate(
            history,
            lambda best, entry: best.after(int(entry["step"]), float(entry["nll"])),
            initial=BestSoFar(),
        )
    )
