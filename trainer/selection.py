"""Which weights of a run are kept: those of the checkpoint with the lowest loss on valid."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoints.files import CHECKPOINTS_NAME, oldest_whole, step_of, tag_of, tagged
from trainer.checkpoints.policy import BestSoFar, bests_of, exports_to_keep
from trainer.common.errors import InputError, MissingError
from trainer.config.run import RunConfig
from trainer.data.chains import longest_first
from trainer.data.examples import Example
from trainer.data.loader import to_student_input
from trainer.data.model_input import InputLimits, reads_dialogues
from trainer.data.vocabulary import Vocabulary
from trainer.engine.engine import Engine
from trainer.engine.ranks import raise_on_all_ranks
from trainer.loss import conkd
from trainer.telemetry.run_log import METRICS_NAME

FOLDER_NAME = "best"


class Selection:
    """Measures the gold tokens' loss on valid and keeps an export of the best model so far.

    Attributes:
        best: the validation of the best model.
    """

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        *,
        vocabulary: Vocabulary,
        examples: list[Example],
        limits: InputLimits,
        export: Callable[[Path], None],
    ) -> None:
        """Args:
        examples: of valid.
        limits: the student's own.
        export: writes the model's whole weights to a folder; collective.
        """
        self.best = BestSoFar()
        self._config = config
        self._engine = engine
        self._vocabulary = vocabulary
        self._limits = limits
        self._export = export
        self._examples = longest_first(examples, in_chains=reads_dialogues(limits))
        self._root = Path(config.output) / FOLDER_NAME
        self._checkpoints = Path(config.output) / CHECKPOINTS_NAME

    @property
    def folder(self) -> Path:
        """Where the best model is."""
        return self._folder_of(self.best.step)

    @property
    def is_over(self) -> bool:
        """Whether the run ends early: `train.patience` validations without a better one."""
        return self.best.is_over(self._config.train.patience)

    def restore(self, history: Sequence[Mapping[str, Any]], first_step: int) -> None:
        """Collective: restore the best validation from the losses that rank 0 has logged.

        Raises:
            MissingError: on every rank, if those losses or the best model are gone.
        """
        before, *later = bests_of(history)
        best = later[-1] if later else before
        self._engine.on_first_rank(lambda: self._keep_only({it.step for it in later}, first_step))
        known = [best.step, best.nll, best.misses] if history else [0.0, 0.0, 0.0]
        step, nll, misses = self._engine.sum_over_ranks(known)
        if step:
            self.best = BestSoFar(step=int(step), nll=nll, misses=int(misses))
            self._engine.on_first_rank(self._check_folder)

    def _keep_only(self, bests: set[int], first_step: int) -> None:
        """Remove exports of steps that will be done again."""
        lost = [step for step in self._exported() if step <= first_step] if not bests else []
        if lost:
            raise MissingError(
                f"{METRICS_NAME} must hold the losses on valid until step {first_step}, got none "
                f"of them beside {self._folder_of(lost[0])}. Bring the file back, or start over "
                "with train.resume=false."
            )
        self._keep(bests)

    def validate(self, step: int) -> float:
        """The loss on valid after `step`; exports the model if it is the lowest so far."""
        nll = self._mean_nll()
        if not math.isfinite(nll):
            raise_on_all_ranks(
                InputError(
                    f"the loss on valid must be finite, got {nll} after step {step}. Start over "
                    "with train.resume=false and a lower optimiser.learning_rate."
                )
            )
        self.best = self.best.after(step, nll)
        if self.best.step == step:
            self._export(self.folder)
        return nll

    def copy_best(self, folder: Path) -> None:
        """Copy the best model into a folder; FileNotFoundError if it is gone."""
        self._check_folder()
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    def _check_folder(self) -> None:
        if not self.folder.is_dir():
            raise MissingError(
                f"{self.folder} must hold the best model of the run, got no folder. Start over "
                "with train.resume=false."
            )

    def forget_others(self) -> None:
        """Remove exports that no kept checkpoint needs; to be called once the newest is whole."""
        self._engine.on_first_rank(self._remove_unneeded)

    def _remove_unneeded(self) -> None:
        self._keep(exports_to_keep(self._exported(), oldest_whole(self._checkpoints)))

    def _folder_of(self, step: int) -> Path:
        return self._root / tag_of(step)

    def _exported(self) -> list[int]:
        return [step_of(path) for path in tagged(self._root)]

    def _keep(self, needed: set[int]) -> None:
        for step in set(self._exported()) - needed:
            shutil.rmtree(self._folder_of(step))

    def _mean_nll(self) -> float:
        """Over all tokens of valid's responses; every rank scores its share."""
        share = self._config.train.batch_size // self._engine.world_size
        size = self._config.train.micro_batch_size or share
        batches = [self._examples[i : i + size] for i in range(0, len(self._examples), size)]
        nll_sum, num_tokens = 0.0, 0
        for first in range(0, len(batches), self._engine.world_size):
            # Under ZeRO-3 a forward takes all ranks: one without a batch scores the last again.
            index = first + self._engine.rank
            batch = tuple(batches[min(index, len(batches) - 1)])
            nll_P = self._nll(batch)
            if index < len(batches):
                nll_sum, num_tokens = nll_sum + float(nll_P.double().sum()), num_tokens + len(nll_P)
        nll_sum, num_tokens = self._engine.sum_over_ranks([nll_sum, num_tokens])
        return nll_sum / num_tokens

    def _nll(self, batch: tuple[Example, ...]) -> torch.Tensor:
        inputs = to_student_input(batch, self._vocabulary, self._limits)
        targets = conkd.hard_targets(inputs.positions)
        return inputs.positions.of_response(self._engine.evaluate(inputs.model, targets))


def forget_best(output: Path) -> None:
    """Remove what an earlier run in this folder has kept; to be called on one rank."""
    for path in tagged(output / FOLDER_NAME):
        shutil.rmtree(path)
