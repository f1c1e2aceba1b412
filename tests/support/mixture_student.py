"""`trainer/main.py` with two teachers of each kind inside every rank, mixed whole and dense.

deepspeed tests/support/mixture_student.py --first DIALOGUE RECOMMENDATION
    --second DIALOGUE RECOMMENDATION --weight W --config FILE [key=value ...]

Of the settings none says that there are several: each kind has one teacher, whose rows are the
mixture's.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from cluster.bench.fleet.in_process import InProcessTeachers
from protos.target_rows import ITEM_MASS, TargetRows, Targets
from trainer.common.cli import run_rank
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.main import parse
from trainer.student_run import checked_input, run_student

Folders = dict[str, Path]


class DenseMixture(InProcessTeachers):
    """Teachers whose whole rows are `weight` times the first ones' and the rest of the second."""

    def __init__(
        self, first: Folders, second: Folders, weight: float, distill: DistillConfig
    ) -> None:
        super().__init__(first, distill)
        self._second = InProcessTeachers(second, distill)
        self._weight = weight

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        one = super().submit(examples, temperature).result()
        two = self._second.submit(examples, temperature).result()
        answer: Future[Targets] = Future()
        answer.set_result({kind: self._mixed(rows, two[kind]) for kind, rows in one.items()})
        return answer

    def _mixed(self, one: TargetRows, two: TargetRows) -> TargetRows:
        assert np.array_equal(one.ids_E, two.ids_E) and not (one.tail_R.any() or two.tail_R.any())
        probs_E = self._mean(np.exp(one.log_probs_E.astype(float)), np.exp(two.log_probs_E))
        mass_R = self._mean(one.item_mass_R.astype(float), two.item_mass_R)
        return dataclasses.replace(
            one,
            log_probs_E=np.log(probs_E).astype(np.float32),
            masses={ITEM_MASS: mass_R.astype(np.float32)},
        )

    def _mean(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return self._weight * one + (1.0 - self._weight) * two.astype(float)


def by_kind(dialogue: Path, recommendation: Path) -> Folders:
    return {"dialogue": dialogue, "recommendation": recommendation}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for name in ("--first", "--second"):
        parser.add_argument(name, type=Path, nargs=2, required=True)
    parser.add_argument("--weight", type=float, required=True)
    arguments, rest = parser.parse_known_args(argv)
    config, data = checked_input(parse(rest))
    teachers = DenseMixture(
        by_kind(*arguments.first), by_kind(*arguments.second), arguments.weight, config.distill
    )
    run_student(config, data, lambda *_: teachers)


if __name__ == "__main__":
    run_rank(main)
