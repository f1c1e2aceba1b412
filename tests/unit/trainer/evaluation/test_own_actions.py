"""A student that predicts its action token, in the place of a classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.action_forms import form_of
from tests.support.evaluation_fakes import write_dialogue_teacher, write_student, write_tiny_data
from trainer.common.atomic import write_json
from trainer.common.text_files import read_json_object
from trainer.data.action_form import ACTION_HISTORY, ACTION_LOSS, ACTIONS
from trainer.data.prepared import PreparedData
from trainer.evaluation.actions import ActionChooser
from trainer.evaluation.evaluate import EvaluateConfig, evaluate_model
from trainer.evaluation.likelihood import gold_nlls
from trainer.evaluation.loaded_model import LoadedModel, load_model
from trainer.models.student_card import STUDENT_CARD_NAME, read_student_card


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def folder(tmp_path: Path, data: PreparedData) -> Path:
    """A student that reads action tokens in the history, and predicts its own."""
    write_student(tmp_path, data.vocabulary, seed=3)
    card = read_json_object(tmp_path / STUDENT_CARD_NAME, remedy="")
    write_json(tmp_path / STUDENT_CARD_NAME, {**card, "action_history": True, "action_loss": True})
    return tmp_path


def with_action(loaded: LoadedModel, context: list[int]) -> list[int]:
    """A context of the tiny examples with the actions of its earlier turns, written out."""
    form = form_of(loaded.vocabulary, ACTION_HISTORY)
    turns: list[list[int]] = [[]]
    for token in context:
        turns[-1].append(token)
        if token == loaded.vocabulary.eos_id:
            turns.append([])
    whole = turns[:-1]
    read: list[int] = []
    for number, turn in enumerate(whole):
        if (len(whole) - number) % 2 == 0:
            names = any(map(loaded.vocabulary.is_item, turn))
            read.append(form.rec_id if names else form.gen_id)
        read += turn
    return read


def test_student_chooses_the_likelier_of_its_two_tokens(folder: Path, data: PreparedData) -> None:
    loaded = load_model(folder)
    examples = [it for it in data.examples("test") if it.context_ids[-1] == data.vocabulary.eos_id]
    assert examples
    actions = ActionChooser(loaded, None)(examples)
    assert actions.source == "student"
    for example, recommends in zip(examples, actions.recommends_T, strict=True):
        ids = torch.tensor([with_action(loaded, example.context_ids.tolist())])
        with torch.no_grad():
            scores_V = loaded.model.module(ids).logits[0, -1]
        rec, gen = scores_V[data.vocabulary.rec_id], scores_V[data.vocabulary.gen_id]
        assert recommends == bool(rec >= gen)


def test_classifier_and_oracle_stand_before_the_students_own_choice(
    folder: Path, data: PreparedData
) -> None:
    loaded = load_model(folder)
    assert ActionChooser(loaded, "student")(data.examples("test")).source == "student"
    assert ActionChooser(loaded, "oracle")(data.examples("test")).source == "oracle"


def test_a_student_that_did_not_learn_its_tokens_cannot_choose(
    tmp_path: Path, data: PreparedData
) -> None:
    write_student(tmp_path, data.vocabulary, seed=3)
    with pytest.raises(ValueError, match=r"must have learnt its action tokens .* \(action_loss\)"):
        ActionChooser(load_model(tmp_path), "student")


def test_likelihood_is_of_the_responses_own_tokens(folder: Path, data: PreparedData) -> None:
    loaded = load_model(folder)
    examples = data.examples("test")
    form = form_of(loaded.vocabulary, ACTION_HISTORY)
    for example, nll in zip(examples, gold_nlls(loaded, examples), strict=True):
        read = with_action(loaded, example.context_ids.tolist())
        read.append(form.token(recommends=example.is_recommendation))
        response = example.response_ids.tolist()
        with torch.no_grad():
            scores_LV = loaded.model.module(torch.tensor([[*read, *response]])).logits[0]
        log_probs_TV = scores_LV[len(read) - 1 : -1].double().log_softmax(-1)
        expected = -sum(float(log_probs_TV[t, token]) for t, token in enumerate(response))
        assert nll == pytest.approx(expected, rel=1e-5)


def test_evaluation_asks_the_student_itself(folder: Path, data: PreparedData) -> None:
    result = evaluate_model(folder, data, EvaluateConfig())
    assert result.actions.source == "student"


def test_a_card_of_an_earlier_release_has_no_reading(tmp_path: Path, data: PreparedData) -> None:
    write_student(tmp_path, data.vocabulary, seed=3)
    card = read_json_object(tmp_path / STUDENT_CARD_NAME, remedy="")
    del card["action_history"], card["action_loss"]
    write_json(tmp_path / STUDENT_CARD_NAME, card)
    assert read_student_card(tmp_path).actions == (ACTIONS,)


def test_a_dialogue_teacher_reads_them_as_its_card_lists(
    tmp_path: Path, data: PreparedData
) -> None:
    names = (ACTIONS, ACTION_HISTORY, ACTION_LOSS)
    for folder, actions in ((tmp_path / "plain", ()), (tmp_path / "told", names)):
        write_dialogue_teacher(folder, data.vocabulary, seed=4, actions=actions)
        loaded = load_model(folder)
        assert loaded.actions == actions
        assert (loaded.limits.actions is not None) == bool(actions)
