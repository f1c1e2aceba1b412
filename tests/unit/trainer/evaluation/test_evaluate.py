from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.evaluation_fakes import (
    NUM_ITEMS,
    tiny_vocabulary,
    write_classifier,
    write_dialogue_teacher,
    write_run,
    write_student,
    write_tiny_data,
)
from trainer.data.prepared import PreparedData
from trainer.evaluation import __main__ as command
from trainer.evaluation.actions import ActionChooser, Actions
from trainer.evaluation.evaluate import EvaluateConfig, evaluate_model
from trainer.evaluation.likelihood import gold_nlls
from trainer.evaluation.loaded_model import load_model
from trainer.scoring.metrics import scores
from trainer.scoring.paper_view import paper_view
from trainer.scoring.records import Record, Slot
from trainer.scoring.scored_split import scored_split
from trainer.scoring.views import baseline_view

ORACLE = EvaluateConfig(classifier="oracle")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Path:
    folder = tmp_path_factory.mktemp("student")
    write_student(folder, data.vocabulary, seed=3)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_dialogue_teacher(folder, data.vocabulary, seed=4)
    return folder


def without_seconds(folder: Path, data: PreparedData, config: EvaluateConfig) -> dict:
    return {**evaluate_model(folder, data, config).to_dict(), "seconds": None}


def test_evaluate_model_twice_gives_identical_results(student: Path, data: PreparedData) -> None:
    first = without_seconds(student, data, ORACLE)
    assert first == without_seconds(student, data, ORACLE)
    assert json.loads(json.dumps(first)) == first


def test_evaluate_model_has_every_documented_key(student: Path, data: PreparedData) -> None:
    result = evaluate_model(student, data, ORACLE).to_dict()
    for k in (1, 10, 50):
        for name in ("rer", "prr", "f1"):
            assert 0.0 <= result[f"{name}_at_{k}"] <= 1.0
            assert f"{name}_at_{k}" in result["new_items"]
            assert f"conventional_{name}_at_{k}" in result
    assert {"rec_ratio", "perplexity", "dist_1", "dist_2", "dist_3", "dist_4"} <= set(result)
    assert result["num_responses"] == 6
    assert result["gold_rec_ratio"] == pytest.approx(4 / 6)
    assert result["actions"] == {
        "source": "oracle",
        "classifier": None,
        "accuracy": 1.0,
        "f1": 1.0,
    }


def test_evaluate_model_of_a_dialogue_teacher_uses_no_action_token(
    teacher: Path, data: PreparedData
) -> None:
    result = evaluate_model(teacher, data, EvaluateConfig()).to_dict()
    assert result["actions"]["source"] == "none"
    assert result["actions"]["accuracy"] is None


def test_evaluate_model_with_a_limit_scores_the_first_dialogues(
    student: Path, data: PreparedData
) -> None:
    whole = evaluate_model(student, data, ORACLE)
    part = evaluate_model(student, data, dataclasses.replace(ORACLE, limit=2))
    assert list(part.records) == list(whole.records[:2])


def test_evaluate_model_with_another_vocabulary_is_refused_with_both_digests(
    tmp_path: Path, data: PreparedData
) -> None:
    other = tiny_vocabulary(NUM_ITEMS - 1)
    write_student(tmp_path, other, seed=3)
    with pytest.raises(ValueError, match="must have vocabulary digest") as caught:
        evaluate_model(tmp_path, data, ORACLE)
    assert other.digest in str(caught.value)
    assert data.vocabulary.digest in str(caught.value)


def test_evaluate_model_without_an_action_source_is_refused(
    student: Path, data: PreparedData
) -> None:
    with pytest.raises(ValueError, match="--classifier oracle"):
        evaluate_model(student, data, EvaluateConfig())


def test_evaluate_config_with_limit_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        EvaluateConfig(limit=0)


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_gold_nlls_equal_one_unpadded_forward_per_example(
    kind: str, request: pytest.FixtureRequest, data: PreparedData
) -> None:
    folder = request.getfixturevalue(kind)
    loaded = load_model(folder)
    examples = data.examples("test")
    nlls = gold_nlls(loaded, examples)
    for example, nll in zip(examples, nlls, strict=True):
        prompt = loaded.prompt(example, recommends=example.is_recommendation).given.tokens
        ids = torch.tensor([[*prompt.tolist(), *example.response_ids.tolist()]])
        with torch.no_grad():
            log_probs = loaded.model.module(input_ids=ids).logits[0].double().log_softmax(-1)
        expected = -sum(
            float(log_probs[position - 1, ids[0, position]])
            for position in range(len(prompt), ids.shape[1])
        )
        assert nll == pytest.approx(expected, rel=1e-5)
    result = evaluate_model(folder, data, ORACLE)
    counts = {name: it.sum() for name, it in result.views["all"].counts.items()}
    assert counts["gold_tokens"] == sum(len(example.response_ids) for example in examples)
    assert counts["nll"] == pytest.approx(sum(nlls), rel=1e-5)
    # "see" five times "see Film 4 (1904)"-like; two responses have no film.
    assert counts["gold_characters"] == 2 * 3 + 3 * len("see Film 4 (1904)") + len(
        "see Film 70 (1970)"
    )
    assert gold_nlls(loaded, []) == []


def test_load_model_takes_the_student_out_of_a_run_directory(
    tmp_path: Path, data: PreparedData
) -> None:
    write_run(tmp_path, data.vocabulary, seed=3, teachers=True)
    loaded = load_model(tmp_path)
    assert loaded.folder == tmp_path / "model"
    assert loaded.actions


def test_load_model_of_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a run directory, an exported student or"):
        load_model(tmp_path)


def test_load_model_with_a_torn_card_is_refused(tmp_path: Path) -> None:
    (tmp_path / "student.json").write_text('{"action_tokens": true}')
    with pytest.raises(ValueError, match="must be a student's card with vocabulary_digest"):
        load_model(tmp_path)


def test_prompt_ends_with_the_action_token_of_a_student(
    student: Path, teacher: Path, data: PreparedData
) -> None:
    example = data.examples("test")[1]
    trained, frozen = load_model(student), load_model(teacher)
    vocabulary = data.vocabulary
    assert trained.prompt(example, recommends=True).given.tokens[-1] == vocabulary.rec_id
    assert trained.prompt(example, recommends=False).given.tokens[-1] == vocabulary.gen_id
    plain = frozen.prompt(example, recommends=True)
    assert np.array_equal(plain.given.tokens, example.context_ids)
    assert plain.num_mentioned == len(example.context_entities)


def test_action_chooser_with_a_missing_classifier_is_refused(
    tmp_path: Path, data: PreparedData
) -> None:
    write_student(tmp_path, data.vocabulary, seed=3, classifier="nowhere")
    with pytest.raises(FileNotFoundError, match=r"must be in .*nowhere, got no folder"):
        ActionChooser(load_model(tmp_path), None)


def test_action_chooser_prefers_the_choice_over_the_card(
    tmp_path: Path, data: PreparedData
) -> None:
    write_student(tmp_path, data.vocabulary, seed=3, classifier="nowhere")
    actions = ActionChooser(load_model(tmp_path), "oracle")(data.examples("test"))
    assert actions.recommends_T.tolist() == [False, True, True, True, True, False]


def test_action_chooser_asks_the_classifier_of_the_card_beside_the_student(
    tmp_path: Path, data: PreparedData
) -> None:
    write_student(tmp_path / "model", data.vocabulary, seed=3, classifier="../classifier")
    classifier = write_classifier(tmp_path / "classifier", data.vocabulary, seed=1)
    examples = data.examples("test")
    actions = ActionChooser(load_model(tmp_path), None)(examples)
    expected = classifier.predict([example.context_ids for example in examples])
    assert actions.source == "classifier"
    assert actions.recommends_T.tolist() == expected.tolist()
    assert 0 < expected.sum() < len(expected)
    # Gold: no, yes, yes, yes, yes, no.
    gold = [False, True, True, True, True, False]
    hits = sum(a == b for a, b in zip(expected.tolist(), gold, strict=True))
    assert actions.to_dict()["accuracy"] == pytest.approx(hits / 6)


def test_action_chooser_with_a_classifier_of_another_vocabulary_is_refused(
    tmp_path: Path, student: Path
) -> None:
    write_classifier(tmp_path, tiny_vocabulary(NUM_ITEMS - 1), seed=1)
    with pytest.raises(ValueError, match="must have vocabulary digest"):
        ActionChooser(load_model(student), str(tmp_path))


def test_actions_f1_counts_the_rec_token() -> None:
    # 1 hit, 2 guessed, 3 gold: F1 = 2 / 5.
    actions = Actions(
        source="classifier",
        classifier="c",
        recommends_T=np.array([True, True, False, False]),
        gold_T=np.array([True, False, True, True]),
    )
    assert actions.to_dict()["f1"] == pytest.approx(0.4)
    assert actions.to_dict()["accuracy"] == pytest.approx(0.25)


def test_scores_are_those_of_the_records(student: Path, data: PreparedData) -> None:
    result = evaluate_model(student, data, ORACLE)
    sums = paper_view(result.records, data, "test")
    found = result.to_dict()
    assert {name: found[name] for name in scores(sums["all"])} == scores(sums["all"])
    assert found["new_items"] == scores(sums["new"])


def test_perfect_records_count_gold_in_three_ways(data: PreparedData) -> None:
    split = scored_split(data, "test")
    records = [
        Record(
            dialogue=turn.key[0],
            message=turn.key[1],
            text="".join(f"@{film}" for film in turn.gold),
            slots=tuple(Slot(item=film, ranked=(film,)) for film in turn.gold),
        )
        for turn in split.turns
    ]
    sums = paper_view(records, data, "test")
    counts = {name: it.sum() for name, it in sums["all"].counts.items()}
    # Gold: 4 | 3 9 | 70 | 9 9. The third context names 3 and 4; responses keep one film each.
    assert (counts["gold"], counts["matched_1"], counts["truncated_gold"]) == (6, 6, 4)
    new = {name: it.sum() for name, it in sums["new"].counts.items()}
    assert (new["gold"], new["slots"]) == (5, 6)


def test_copying_finds_the_repeat_and_nothing_new(data: PreparedData) -> None:
    split, train = scored_split(data, "test"), data.dialogues("train")
    views = baseline_view("paper", "copy", split, train, set())
    # Gold 3 of the third response was named there, second to last.
    counts = views["all"].counts
    assert [counts[f"matched_{k}"].sum() for k in (1, 10)] == [0, 1]
    assert views["new"].counts["matched_50"].sum() == 0
    # Film 9 is in three gold positions of two responses, each with two places.
    popular = baseline_view("paper", "popularity", split, train, set())
    assert popular["all"].counts["matched_1"].sum() == 3


def test_command_with_json_prints_one_object(
    student: Path, data: PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(data.root)
    command.main(
        ["--checkpoint", str(student), "--data", folder, "--classifier", "oracle", "--json"]
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["split"] == "test"
    assert math.isfinite(printed["perplexity"])


def test_command_without_json_prints_a_table(
    student: Path, data: PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(data.root)
    command.main(["--checkpoint", str(student), "--data", folder, "--classifier", "oracle"])
    assert "F1@10" in capsys.readouterr().out
