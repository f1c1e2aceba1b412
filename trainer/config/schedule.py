"""A number of the settings that changes with the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainer.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a setting goes from its own value to another one; a function of the step alone."""

    form: Literal["constant", "linear", "cosine"] = "constant"
    """Stay; or go there evenly, or along half a cosine, which starts and ends slowly."""
    to: float | None = None
    """The value that it ends at, and keeps."""
    steps: int | None = None
    """Optimiser steps, from the run's first, over which it goes there."""

    @property
    def is_constant(self) -> bool:
        """Whether the setting stays as it is."""
        return self.form == "constant"

    def check(self, key: str) -> None:
        """Raise InputError, with the schedule's key, unless its settings belong together."""
        if self.steps is not None and self.steps < 1:
            raise InputError(f"{key}.steps must be at least 1, got {self.steps}.")
        for given in (self.to, self.steps):
            if (given is None) != self.is_constant:
                raise InputError(
                    f"{key}.to and {key}.steps must be given with {key}.form linear or cosine, and "
                    f"only then, got {self.to} and {self.steps} with {self.form}."
                )

    def value(self, start: float, step: int) -> float:
        """The setting at a step, counted from 0: `start` at 0, `to` from `steps` on."""
        if self.is_constant:
            return start
        assert self.to is not None and self.steps is not None, "check() saw that they are given"
        if step >= self.steps:
            # Not by the formula, which could round past the end of the setting's range.
            return self.to
        done = step / self.steps
        if self.form == "cosine":
            done = (1.0 - math.cos(math.pi * done)) / 2.0
        return start + (self.to - start) * done

    def ends(self, start: float) -> tuple[float, float]:
        """The lowest and the highest value that it has from `start` on."""
        end = start if self.to is None else self.to
        return min(start, end), max(start, end)
