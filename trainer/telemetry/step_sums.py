"""The sums of a step over micro-batches and ranks, of which step_metrics.py forms metrics.

Only sums are kept until the end: ranks and micro-batches add up, and a mean is a ratio of sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.common.errors import InputError
from trainer.data.loader import StudentInput
from trainer.loss.closeness import CLOSE_SUMS, watched_counts
from trainer.loss.conkd import PreparedTargets
from trainer.loss.watched import CLOSE_KINDS
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.step_metrics import CLIENT, STEP_METRICS, TEACHER_METRICS

SumOverRanks = Callable[[Sequence[float], Tensor], list[float]]
"""The engine's sum over ranks: values on the host, and those on the device, which come first."""
ON_DEVICE = ("loss", "nll", *(f"{kind}_{it}" for kind in CLOSE_KINDS for it in CLOSE_SUMS))
"""Losses, and how close the student is to its teachers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepSums:
    """Sums of one step.

    Attributes:
        device_N: float64 [N] on the engine's device, ON_DEVICE: read once a step, since every
            read waits for the device.
        host: float64, or float64 [bins], by name: the `needs` of step_metrics.py.
    """

    device_N: Tensor
    host: Mapping[str, float | np.ndarray]

    @classmethod
    def zero(cls, device: torch.device) -> StepSums:
        """No sums yet."""
        return cls(
            device_N=torch.zeros(len(ON_DEVICE), dtype=torch.float64, device=device), host={}
        )

    @classmethod
    def of_micro_batch(
        cls,
        inputs: StudentInput,
        prepared: PreparedTargets,
        *,
        loss_sum: Tensor,
        nll_P: Tensor,
        closeness_KS: Tensor,
        wait_s: float,
    ) -> StepSums:
        """The sums of one forward; of the response's own tokens, but for the loss."""
        of_response = inputs.positions.of_response
        is_item_R, nll_R = of_response(inputs.positions.is_item_P), of_response(nll_P)
        values = {
            "tokens": int(inputs.model.lengths_B.sum()),
            "slots": inputs.model.input_ids_BL.numel(),
            "positions": len(is_item_R),
            "item_steps": int(is_item_R.sum()),
            "word_steps": int((~is_item_R).sum()),
            "wait_s": wait_s,
        }
        if prepared.statistics is not None:
            values |= dataclasses.asdict(prepared.statistics) | watched_counts(prepared.soft)
        return cls(
            device_N=torch.cat(
                [loss_sum.detach()[None], nll_R.double().sum()[None], closeness_KS.ravel()]
            ).double(),
            host={name: np.asarray(value, np.float64) for name, value in values.items()},
        )

    def __add__(self, other: StepSums) -> StepSums:
        names = {**self.host, **other.host}
        return StepSums(
            device_N=self.device_N + other.device_N,
            host={name: self.host.get(name, 0.0) + other.host.get(name, 0.0) for name in names},
        )

    def value(self, name: str) -> float:
        """One number of `host`."""
        return float(self.host[name])

    def over_ranks(
        self, sum_over_ranks: SumOverRanks, world_size: int, counted: ClientCounters | None
    ) -> GlobalSums:
        """Summed over all ranks, together with the client counters of every rank; collective."""
        of_client = dataclasses.asdict(counted) if counted is not None else {}
        parts = {**self.host, **{f"{CLIENT}{name}": it for name, it in of_client.items()}}
        flat = np.concatenate([np.ravel(part) for part in parts.values()])
        total = iter(sum_over_ranks(flat.tolist(), self.device_N))
        values: dict[str, Any] = {name: next(total) for name in ON_DEVICE}
        for name, part in parts.items():
            summed = [next(total) for _ in range(np.size(part))]
            values[name] = summed if np.ndim(part) else summed[0]
        return GlobalSums(values=values, has_teachers=counted is not None, world_size=world_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalSums:
    """A step's sums over all ranks: a float, or a list of them for a histogram."""

    values: Mapping[str, Any]
    has_teachers: bool
    world_size: int

    def find_problem(self, step: int) -> ValueError | None:
        """The error, alike on every rank, if the loss is not finite."""
        loss = self.values["loss"]
        if math.isfinite(loss):
            return None
        return InputError(
            f"the loss must be finite, got {loss} at step {step}. Start over with "
            "train.resume=false and a lower optimiser.learning_rate."
        )

    def metrics(
        self,
        *,
        step: int,
        step_s: float,
        num_examples: int,
        learning_rate: float,
        grad_norm: float | None,
        loss_scale: float | None,
        was_skipped: bool,
        gamma: float,
        temperature: float,
    ) -> dict[str, Any]:
        """The step's object in metrics.jsonl; step_metrics.py declares its keys."""
        sums = {
            **self.values,
            "step": step,
            "step_s": step_s,
            "examples": num_examples,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "loss_scale": loss_scale,
            "was_skipped": was_skipped,
            "gamma": gamma,
            "temperature": temperature,
            "ranks_with_teachers": self.world_size if self.has_teachers else 0,
        }
        metrics = (*STEP_METRICS, *TEACHER_METRICS) if self.has_teachers else STEP_METRICS
        return {it.name: it.value(sums) for it in metrics}
