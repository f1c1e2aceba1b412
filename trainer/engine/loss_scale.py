"""Steps that were skipped while fp16's loss scale is found, and when that is no search any more."""

from __future__ import annotations

from typing import Any

from trainer.common.errors import InputError

MAX_SKIPS_IN_A_ROW = 40
"""From DeepSpeed's largest start, 2^32, a search down to a scale of 1 takes fewer."""


class SkippedSteps:
    """Counts the row of skipped steps that the run is in.

    Args:
        settings: DeepSpeed's config; its fp16 block may name the smallest scale.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._min_scale = float(settings.get("fp16", {}).get("min_loss_scale", 1.0))
        self._in_a_row = 0

    def find_problem(self, was_skipped: bool, loss_scale: float | None) -> ValueError | None:
        """The error to leave with after one more step, if there is one.

        Args:
            loss_scale: of the next step; None if the run has none, so that no step may be skipped.
        """
        self._in_a_row = self._in_a_row + 1 if was_skipped else 0
        if not was_skipped:
            return None
        if loss_scale is None:
            return InputError(
                "the gradient must be finite, got one that is not, and the step was not taken. "
                "Start over with train.resume=false and a lower optimiser.learning_rate."
            )
        # One more overflow at the smallest scale, and DeepSpeed leaves every rank with a traceback.
        if loss_scale <= self._min_scale or self._in_a_row >= MAX_SKIPS_IN_A_ROW:
            return InputError(
                f"the gradient must be finite in fp16 at some loss scale, got {self._in_a_row} "
                f"skipped steps in a row down to a scale of {loss_scale:g}. Start over with "
                "train.resume=false and train.precision=bf16, or a lower optimiser.learning_rate."
            )
        return None
