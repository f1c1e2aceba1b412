"""What is counted in a step, summed over micro-batches and ranks, and what becomes of it.

Everything is a sum until the last moment: ranks and steps add up, a mean is one sum over another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.loader import StudentInput
from trainer.loss.gate_statistics import HISTOGRAM_BINS, GateStatistics
from trainer.telemetry.client_counters import ClientCounters

ITEM, WORD = 0, 1

SumOverRanks = Callable[[Sequence[float], Tensor], list[float]]
"""The engine's sum over ranks: values on the host, and those on the device, which come first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepSums:
    """Sums of one step.

    Attributes:
        losses_2: float64 [2] on the engine's device, loss and gold NLL: they are read once a step,
            since every look waits for the device.
        scalars: float64, see SCALARS.
        item_mass: float64 [2], gate input summed over item steps and word steps.
        histogram: float64 [2, 20], counts of the gate input there.
    """

    losses_2: Tensor
    scalars: np.ndarray
    item_mass: np.ndarray
    histogram: np.ndarray

    @classmethod
    def zero(cls, device: torch.device) -> StepSums:
        """Nothing counted yet."""
        return cls(
            losses_2=torch.zeros(2, dtype=torch.float64, device=device),
            scalars=np.zeros(len(SCALARS)),
            item_mass=np.zeros(2),
            histogram=np.zeros((2, HISTOGRAM_BINS)),
        )

    @classmethod
    def of_micro_batch(
        cls,
        inputs: StudentInput,
        statistics: GateStatistics | None,
        *,
        loss_sum: Tensor,
        nll_P: Tensor,
        wait_s: float,
    ) -> StepSums:
        """What one forward adds."""
        losses_2 = torch.stack([loss_sum.detach().double(), nll_P.double().sum()])
        sums = replace(cls.zero(loss_sum.device), losses_2=losses_2)
        is_item_P = inputs.positions.is_item_P
        values = {
            "tokens": int(inputs.model.lengths_B.sum()),
            "slots": inputs.model.input_ids_BL.numel(),
            "positions": len(is_item_P),
            "item_steps": int(is_item_P.sum()),
            "wait_s": wait_s,
        }
        if statistics is not None:
            values |= {name: getattr(statistics, name) for name in STATISTICS}
            values["gate_item"], values["gate_word"] = statistics.gate
            sums.item_mass[:] = statistics.item_mass
            sums.histogram[:] = statistics.histogram
        for name, value in values.items():
            sums.scalars[SCALARS.index(name)] = value
        return sums

    def __add__(self, other: StepSums) -> StepSums:
        return StepSums(
            losses_2=self.losses_2 + other.losses_2,
            scalars=self.scalars + other.scalars,
            item_mass=self.item_mass + other.item_mass,
            histogram=self.histogram + other.histogram,
        )

    def value(self, name: str) -> float:
        """One of SCALARS."""
        return float(self.scalars[SCALARS.index(name)])

    def over_ranks(
        self, sum_over_ranks: SumOverRanks, world_size: int, counted: ClientCounters | None
    ) -> GlobalSums:
        """Summed over all ranks, together with the client counters of every rank; collective."""
        wire = [0.0] * len(WIRE)
        if counted is not None:
            wire = list(dataclasses.asdict(counted).values())
        flat = np.concatenate([self.scalars, self.item_mass, self.histogram.ravel(), wire])
        total = np.array(sum_over_ranks(flat.tolist(), self.losses_2))
        losses, scalars, item_mass, histogram, wire_total = np.split(
            total, np.cumsum([len(LOSSES), len(SCALARS), 2, 2 * HISTOGRAM_BINS])
        )
        return GlobalSums(
            values=dict(zip((*LOSSES, *SCALARS), [*losses, *scalars], strict=True)),
            item_mass=item_mass,
            histogram=histogram.reshape(2, HISTOGRAM_BINS).astype(int),
            wire=dict(zip(WIRE, wire_total.tolist(), strict=True)) if counted else None,
            world_size=world_size,
        )


LOSSES = ("loss", "nll")
STATISTICS = (
    "num_recommended",
    "kept_mass",
    "recommendation_kept_mass",
    "dialogue_entropy",
    "recommendation_entropy",
)
SCALARS = (
    "tokens",
    "slots",
    "positions",
    "item_steps",
    "wait_s",
    "gate_item",
    "gate_word",
    *STATISTICS,
)
WIRE = tuple(each.name for each in dataclasses.fields(ClientCounters))
CACHE = tuple(name for name in WIRE if name.startswith("cache_"))
SUMMED = (
    *("step_s", "tokens", "teacher_wait_s", "teacher_requests", "teacher_resends"),
    *("wire_bytes", "wire_positions", "num_item_steps", "num_word_steps", *CACHE),
    *("mass_item", "mass_word", "massed_item", "massed_word", "skipped_steps"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalSums:
    """A step's sums over all ranks; `wire` is None without teachers."""

    values: dict[str, float]
    item_mass: np.ndarray
    histogram: np.ndarray
    wire: dict[str, float] | None
    world_size: int

    def find_problem(self, step: int) -> ValueError | None:
        """The error to leave with, alike on every rank, if the loss is not a number any more."""
        loss = self.values["loss"]
        if math.isfinite(loss):
            return None
        return ValueError(
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
    ) -> dict[str, Any]:
        """The step's object in metrics.jsonl; keys are documented in docs/training.md."""
        values = self.values
        positions = values["positions"]
        metrics: dict[str, Any] = {
            "step": step,
            "loss": values["loss"] / num_examples,
            "nll": values["nll"] / positions,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "loss_scale": loss_scale,
            "skipped_steps": int(was_skipped),
            "step_s": step_s,
            "tokens_per_s": values["tokens"] / step_s,
            "positions": int(positions),
            "padding": 1.0 - values["tokens"] / values["slots"],
        }
        return metrics | self._teacher_metrics()

    def _teacher_metrics(self) -> dict[str, Any]:
        values, wire = self.values, self.wire
        if wire is None:
            return {"teacher_wait_s": None}
        positions = values["positions"]
        counts = [values["item_steps"], positions - values["item_steps"]]
        # None of a dialogue teacher that is not asked.
        masses = self.histogram.sum(axis=1).tolist()
        return {
            "teacher_wait_s": values["wait_s"] / self.world_size,
            "teacher_requests": int(wire["requests"]),
            "teacher_resends": int(wire["resends"]),
            "teacher_hedges": int(wire["hedges"]),
            **{f"teacher_{name}": wire[name] for name in ("answer_s", "queue_s", "forward_s")},
            "wire_bytes": int(wire["wire_bytes"]),
            "wire_positions": int(wire["positions"]),
            **{name: int(wire[name]) for name in CACHE},
            **{name: values[name] / positions for name in STATISTICS if name != "num_recommended"},
            "recommended_share": values["num_recommended"] / positions,
            "lambda_item_steps": _mean(values["gate_item"], counts[ITEM]),
            "lambda_word_steps": _mean(values["gate_word"], counts[WORD]),
            "num_item_steps": int(counts[ITEM]),
            "num_word_steps": int(counts[WORD]),
            "gate_item_steps": _mean(self.item_mass[ITEM], masses[ITEM]),
            "gate_word_steps": _mean(self.item_mass[WORD], masses[WORD]),
            "gate_histogram_item_steps": self.histogram[ITEM].tolist(),
            "gate_histogram_word_steps": self.histogram[WORD].tolist(),
        }


class RunTotals:
    """Sums over the steps of a run, for the end of metrics.jsonl."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(SUMMED, 0.0)
        self._last_step = 0

    def add(self, metrics: dict[str, Any]) -> None:
        """Take in one step, from this process or from one before it."""
        self._last_step = metrics["step"]
        added = {
            "step_s": metrics["step_s"],
            "tokens": metrics["tokens_per_s"] * metrics["step_s"],
            # Runs of before there was a loss scale do not have it.
            "skipped_steps": metrics.get("skipped_steps", 0),
        }
        if metrics["teacher_wait_s"] is not None:
            added |= {name: metrics[name] for name in SUMMED if name in metrics}
            for kind in ("item", "word"):
                mean = metrics[f"gate_{kind}_steps"]
                massed = 0 if mean is None else metrics[f"num_{kind}_steps"]
                added |= {f"massed_{kind}": massed, f"mass_{kind}": (mean or 0.0) * massed}
        for name, value in added.items():
            self._sums[name] += value

    def summary(self) -> dict[str, Any]:
        """The "end" line: whole-run figures; null where there was no teacher."""
        sums = self._sums
        return {
            "steps": self._last_step,
            "skipped_steps": int(sums["skipped_steps"]),
            "seconds": sums["step_s"],
            "tokens_per_s": _mean(sums["tokens"], sums["step_s"]),
            "teacher_requests": int(sums["teacher_requests"]),
            "teacher_resends": int(sums["teacher_resends"]),
            **{name: int(sums[name]) for name in CACHE},
            "teacher_wait_fraction": _mean(sums["teacher_wait_s"], sums["step_s"]),
            "wire_bytes_per_position": _mean(sums["wire_bytes"], sums["wire_positions"]),
            "gate_mean_item_steps": _mean(sums["mass_item"], sums["massed_item"]),
            "gate_mean_word_steps": _mean(sums["mass_word"], sums["massed_word"]),
        }


def _mean(total: float, count: float) -> float | None:
    return total / count if count and math.isfinite(total) else None
