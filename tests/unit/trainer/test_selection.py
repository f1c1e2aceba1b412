from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checkpoints import commit
from tests.support.evaluation_fakes import tiny_model, write_tiny_data
from trainer.checkpoints import files as checkpoint
from trainer.checkpoints.policy import BestSoFar
from trainer.config.run import RunConfig, TrainConfig
from trainer.data.examples import Example
from trainer.data.loader import to_student_input
from trainer.data.model_input import InputLimits
from trainer.data.prepared import PreparedData
from trainer.export import valid_examples
from trainer.models.language_model import LanguageModel
from trainer.selection import Selection, forget_best


class FakeEngine:
    """One rank without DeepSpeed."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def sum_over_ranks(self, values: list[float]) -> list[float]:
        return [float(value) for value in values]

    def evaluate(self, inputs: Any, targets: Any) -> torch.Tensor:
        with torch.no_grad():
            scores = self._model.head(self._model.response_states(inputs))
        return torch.nn.functional.cross_entropy(scores, targets.labels_P, reduction="none")

    def on_first_rank(self, action: Callable[[], None]) -> None:
        action()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


def make_selection(data: PreparedData, output: Path, examples: list[Example]) -> Selection:
    model = tiny_model(data.vocabulary, seed=4)
    train = TrainConfig(batch_size=4, select="best", patience=2)
    config = RunConfig(data="", output=str(output), action_tokens=False, train=train)
    engine: Any = FakeEngine(model)
    return Selection(
        config,
        engine,
        vocabulary=data.vocabulary,
        examples=examples,
        limits=model.limits,
        export=lambda folder: folder.mkdir(parents=True),
    )


def write_checkpoint(output: Path, step: int, *, keep: int) -> None:
    folder = output / checkpoint.CHECKPOINTS_NAME
    (folder / checkpoint.tag_of(step)).mkdir(parents=True)
    commit(folder, step, ranks=1, keep=keep)


def exported(output: Path) -> list[str]:
    return sorted(folder.name for folder in (output / "best").iterdir())


def test_validate_is_the_mean_over_tokens_one_example_at_a_time(
    data: PreparedData, tmp_path: Path
) -> None:
    examples = data.examples("test")
    selection = make_selection(data, tmp_path, examples)
    model = tiny_model(data.vocabulary, seed=4)
    nlls = []
    for example in examples:
        inputs = to_student_input((example,), data.vocabulary, InputLimits())
        with torch.no_grad():
            scores = model.head(model.response_states(inputs.model)).double()
        rows = torch.arange(len(example.response_ids))
        nlls += (-scores.log_softmax(-1)[rows, inputs.positions.labels_P]).tolist()
    assert selection.validate(10) == pytest.approx(sum(nlls) / len(nlls), rel=1e-5)
    assert selection.best.step == 10


def test_selection_keeps_the_lowest_loss_and_ends_after_patience(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = make_selection(data, tmp_path, data.examples("test"))
    losses = iter([3.0, 2.0, 2.5, 2.0])
    monkeypatch.setattr(selection, "_mean_nll", lambda: next(losses))
    over = []
    for step in (10, 20, 30, 40):
        selection.validate(step)
        write_checkpoint(tmp_path, step, keep=1)
        selection.forget_others()
        over.append(selection.is_over)
    # An equal loss is no better one.
    assert over == [False, False, False, True]
    assert (selection.best.step, selection.best.nll) == (20, 2.0)
    assert exported(tmp_path) == ["step-00000020"]


def test_selection_restored_from_its_history_is_where_it_was(
    data: PreparedData, tmp_path: Path
) -> None:
    selection = make_selection(data, tmp_path, data.examples("test"))
    (tmp_path / "best" / "step-00000010").mkdir(parents=True)
    selection.restore([{"step": 10, "nll": 2.0}, {"step": 20, "nll": 2.5}], 20)
    assert selection.best == BestSoFar(step=10, nll=2.0, misses=1)
    fresh = make_selection(data, tmp_path, data.examples("test"))
    fresh.restore([], 0)
    assert fresh.best == BestSoFar()


def test_every_kept_checkpoint_finds_the_best_model_of_its_time(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = make_selection(data, tmp_path, data.examples("test"))
    nll_of = {10: 3.0, 20: 2.0, 30: 2.5, 40: 1.0}
    losses = iter(nll_of.values())
    monkeypatch.setattr(selection, "_mean_nll", lambda: next(losses))
    for step in nll_of:
        selection.validate(step)
        write_checkpoint(tmp_path, step, keep=2)
        selection.forget_others()
    # Two checkpoints are kept: the run may go back to step 30, whose best is 20.
    assert exported(tmp_path) == ["step-00000020", "step-00000040"]
    history = [{"step": step, "nll": nll} for step, nll in nll_of.items()]
    older = make_selection(data, tmp_path, data.examples("test"))
    older.restore(history[:3], 30)
    assert older.folder.name == "step-00000020"
    # The one of a step that will be done again is not taken for one of before.
    assert exported(tmp_path) == ["step-00000020"]


def test_a_best_model_that_is_gone_is_told_before_the_first_step(
    data: PreparedData, tmp_path: Path
) -> None:
    selection = make_selection(data, tmp_path, data.examples("test"))
    with pytest.raises(FileNotFoundError, match="step-00000010 must hold the best model"):
        selection.restore([{"step": 10, "nll": 2.0}], 10)


def test_best_models_whose_losses_are_gone_are_told_of_and_stay(
    data: PreparedData, tmp_path: Path
) -> None:
    for step in (10, 30):
        (tmp_path / "best" / checkpoint.tag_of(step)).mkdir(parents=True)
    selection = make_selection(data, tmp_path, data.examples("test"))
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl must hold .* until step 20"):
        selection.restore([], 20)
    assert exported(tmp_path) == ["step-00000010", "step-00000030"]
    # Before the first best model there is nothing to lose; what is later will be done again.
    selection.restore([], 5)
    assert exported(tmp_path) == []


def test_what_else_lies_beside_the_best_models_is_neither_read_nor_removed(
    data: PreparedData, tmp_path: Path
) -> None:
    names = ["step-00000010", "step-00000020", "step-00000010.bak", "mine"]
    for name in names:
        (tmp_path / "best" / name).mkdir(parents=True)
    selection = make_selection(data, tmp_path, data.examples("test"))
    write_checkpoint(tmp_path, 20, keep=1)
    selection.forget_others()
    assert exported(tmp_path) == sorted(names[1:])
    forget_best(tmp_path)
    assert exported(tmp_path) == sorted(names[2:])


def test_selection_without_valid_examples_is_refused(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreparedData, "examples", lambda self, split: [])
    config = RunConfig(data="", output="", train=TrainConfig(select="best"))
    with pytest.raises(ValueError, match=r"train\.select must be last where valid has no example"):
        valid_examples(config, data)


def test_best_model_that_is_gone_is_an_error(data: PreparedData, tmp_path: Path) -> None:
    selection = make_selection(data, tmp_path, data.examples("test"))
    with pytest.raises(FileNotFoundError, match="must hold the best model of the run"):
        selection.copy_best(tmp_path / "model")


def test_patience_without_selection_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.patience must be at least 1, with train\.select"):
        TrainConfig(patience=2)
