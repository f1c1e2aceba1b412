from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.evaluation_fakes import (
    tiny_vocabulary,
    write_dialogue_teacher,
    write_run,
    write_tiny_data,
)
from trainer.common.atomic import write_json
from trainer.common.errors import InputError
from trainer.config.distill import DistillConfig
from trainer.config.run import RunConfig
from trainer.config.teachers import TeachersConfig
from trainer.config.watch import WatchConfig
from trainer.config.yaml_file import load_config
from trainer.evaluation.arms import UNDISTILLED, check_arm
from trainer.evaluation.evaluate import EvaluateConfig
from trainer.evaluation.plots import closeness_figure, gate_figure, loss_figure, smoothed
from trainer.evaluation.report import main
from trainer.evaluation.report_text import context_turns, look_up, losses_text, score_rows
from trainer.evaluation.run_history import read_history
from trainer.evaluation.student_report import ReportConfig, write_report

PNG_MAGIC = b"\x89PNG"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("report")
    data = write_tiny_data(root / "data")
    write_run(root / "distilled", data.vocabulary, seed=3, teachers=True)
    write_run(root / "undistilled", data.vocabulary, seed=5, teachers=False)
    write_dialogue_teacher(root / "teacher", data.vocabulary, seed=4)
    return {name: root / name for name in ("data", "distilled", "undistilled", "teacher")}


def report_config(folders: dict[str, Path], run: str = "distilled") -> ReportConfig:
    return ReportConfig(
        run=folders[run],
        data=folders["data"],
        undistilled=folders["undistilled"],
        dialogue_teacher=folders["teacher"],
        evaluate=EvaluateConfig(classifier="oracle"),
    )


@pytest.fixture(scope="module")
def reported(folders: dict[str, Path]) -> Path:
    """A run with its report, beside the figures of a recommendation teacher."""
    run = Path(shutil.copytree(folders["distilled"], folders["distilled"].parent / "reported"))
    recalls = {"recall_at_1": 0.25, "recall_at_10": 0.5, "recall_at_50": 0.75}
    teacher = {"all_gold": recalls, "new_items": recalls}
    write_json(run / "teachers.json", {"split": "test", "recommendation": {"a": teacher}})
    write_report(reported_config(folders, run))
    return run


def reported_config(folders: dict[str, Path], run: Path) -> ReportConfig:
    config = report_config({**folders, "distilled": run})
    return dataclasses.replace(config, teachers=run / "teachers.json")


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    """The report without clock readings."""
    models = {
        name: {**report[name], "seconds": None}
        for name in ("student", "undistilled", "dialogue_teacher")
    }
    return {**report, **models, "seconds": None}


def test_write_report_holds_the_contract_keys(reported: Path) -> None:
    report = json.loads((reported / "report.json").read_text())
    assert report["teacher"] == {"requests": 16, "wait_fraction": 0.1}
    assert report["gate"] == {"mean_item_steps": 0.9, "mean_word_steps": 0.02}
    assert report["wire"] == {"bytes_per_position": 96.0}
    assert (report["steps"], report["tokens_per_s"]) == (4, 100.0)
    for name in ("student", "undistilled", "dialogue_teacher"):
        for k in (1, 10, 50):
            for score in ("f1", "rer", "prr"):
                value = report[name][f"{score}_at_{k}"]
                # A system that names no film has no precision.
                is_defined = score != "prr" or report[name]["slots"] > 0
                assert 0.0 <= value <= 1.0 if is_defined else value is None
                assert f"{score}_at_{k}" in report[name]["new_items"]
                assert f"conventional_{score}_at_{k}" in report[name]
        assert {"rec_ratio", "perplexity", "dist_2", "dist_3", "dist_4"} <= set(report[name])
    assert {"f1_at_10", "f1_at_50"} <= set(report["ratios"])
    assert report["ratios_to_plain"] is None
    assert {"copy", "popularity"} == set(report["baselines"])
    assert {"student", "undistilled", "dialogue_teacher", "total"} <= set(report["seconds"])
    assert {"cores", "torch"} <= set(report["machine"])


def test_write_report_leaves_text_and_plots(reported: Path) -> None:
    text = (reported / "report.md").read_text()
    for name in ("loss", "gate", "teacher_wait", "closeness"):
        assert (reported / "plots" / f"{name}.png").read_bytes().startswith(PNG_MAGIC)
        assert f"(plots/{name}.png)" in text
    for expected in ("| F1@10 |", "distilled student", "-> gold", "see Film 70 (1970)", "a film?"):
        assert expected in text


@pytest.mark.everything
def test_write_report_twice_gives_identical_reports(
    folders: dict[str, Path], reported: Path
) -> None:
    first = json.loads((reported / "report.json").read_text())
    again = write_report(reported_config(folders, reported))
    assert untimed(first) == untimed(json.loads(json.dumps(again)))


@pytest.mark.everything
def test_write_report_of_a_run_without_teachers_has_nulls_and_one_plot(
    folders: dict[str, Path],
) -> None:
    report = write_report(report_config(folders, run="undistilled"))
    assert report["gate"]["mean_item_steps"] is None
    assert report["ratios"]["f1_at_50"] in (1.0, None)
    text = (folders["undistilled"] / "report.md").read_text()
    assert "No teacher was asked" in text
    assert "gate.png" not in text


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("metrics.jsonl", "must be a run directory, got no metrics.jsonl"),
        ("config.yaml", "must be a file"),
        ("model/student.json", "must be a run directory, an exported student"),
        ("model/vocabulary.json", "must hold vocabulary.json"),
        ("model/config.json", "must hold config.json"),
    ],
)
def test_write_report_with_a_piece_missing_names_it(
    folders: dict[str, Path], tmp_path: Path, missing: str, message: str
) -> None:
    shutil.copytree(folders["distilled"], tmp_path / "run")
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        write_report(report_config({**folders, "distilled": tmp_path / "run"}))


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("item_vectors: null", "item_vectors: elsewhere", "item_vectors"),
        ("train:\n  steps: null", "train:\n  steps: 999", "train.steps"),
        ("gamma: 0.0", "gamma: 0.5", "distill.gamma"),
        ("hidden_size: 256", "hidden_size: 128", "student.hidden_size"),
        ("seed: 0", "seed: 1", "seed"),
        ("knowledge: null", "knowledge: elsewhere", "knowledge"),
        ("select: last", "select: best", "train.select"),
        ("precision: float32", "precision: bf16", "train.precision"),
        ("classifier: null", "classifier: elsewhere", "classifier"),
        ("zero_stage: 1", "zero_stage: 2", "zero_stage"),
        ("select: last\n  patience: null", "select: best\n  patience: 3", "train.select"),
        ("micro_batch_size: null", "micro_batch_size: 2", "train.micro_batch_size"),
    ],
)
def test_write_report_of_two_unlike_students_is_refused(
    folders: dict[str, Path], tmp_path: Path, before: str, after: str, key: str
) -> None:
    shutil.copytree(folders["undistilled"], tmp_path / "run")
    settings = tmp_path / "run" / "config.yaml"
    assert before in settings.read_text()
    settings.write_text(settings.read_text().replace(before, after))
    with pytest.raises(ValueError, match=f"^{key} of the run"):
        write_report(report_config({**folders, "undistilled": tmp_path / "run"}))


def test_report_says_in_words_where_the_student_loses_and_names_no_path_of_the_machine(
    folders: dict[str, Path], reported: Path
) -> None:
    report = json.loads((reported / "report.json").read_text())
    text = (reported / "report.md").read_text()
    assert str(folders["data"].parent) not in text
    row = next(line for line in text.splitlines() if line.startswith("| R@10 |"))
    assert " 0.500 |" in row
    assert "| recommendation teacher |" in text
    assert losses_text(report) in text


def scores(f1_at_50: float, perplexity: float | None) -> dict[str, Any]:
    return {"f1_at_50": f1_at_50, "perplexity": perplexity}


@pytest.mark.parametrize(
    ("undistilled", "popularity", "said"),
    [
        (
            scores(0.3, 50.0),
            scores(0.25, None),
            "The distilled student loses to the undistilled student in F1@50 (0.200 against "
            "0.300), Perplexity (60.0 against 50.0). The distilled student loses to the "
            "popularity baseline in F1@50 (0.200 against 0.250).",
        ),
        (
            scores(0.1, 70.0),
            scores(0.1, None),
            "The distilled student loses to none of these in any score compared: undistilled "
            "student, popularity baseline.",
        ),
        (
            scores(0.2, 60.0),
            scores(0.2, None),
            "The distilled student loses to none of these in any score compared: undistilled "
            "student, popularity baseline.",
        ),
    ],
    ids=["worse", "better", "equal"],
)
def test_report_says_where_the_student_loses(
    undistilled: dict[str, Any], popularity: dict[str, Any], said: str
) -> None:
    report = {
        "student": scores(0.2, 60.0),
        "undistilled": undistilled,
        "baselines": {"popularity": popularity},
    }
    assert losses_text(report) == said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "must hold a JSON object, got a list"),
        ("{}", "must be of the split test, got None"),
        ('{"split": "valid"}', "must be of the split test, got valid"),
        (
            '{"split": "test", "vocabulary_digest": "abc"}',
            "must have the data's vocabulary_digest [0-9a-f]{64}, got abc",
        ),
        (
            '{"split": "test", "graphs_digest": "abc"}',
            "must have the data's graphs_digest [0-9a-f]{64}, got abc",
        ),
        ('{"split": "test", "recommendation": {}}', "must have the recalls of"),
        ('{"split": "test", "recommendation": {"a": {"all_gold": 3}}}', "must have the recalls of"),
    ],
)
def test_figures_of_teachers_that_are_none_are_one_line(
    folders: dict[str, Path], tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "teachers.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        write_report(dataclasses.replace(report_config(folders), teachers=path))


def test_figures_of_teachers_are_of_the_whole_split(folders: dict[str, Path]) -> None:
    config = dataclasses.replace(
        report_config(folders), teachers=Path("teachers.json"), evaluate=EvaluateConfig(limit=3)
    )
    with pytest.raises(InputError, match="--teachers must be left out beside --limit"):
        write_report(config)


def test_patience_that_one_student_has_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("distilled", "undistilled"):
        shutil.copytree(folders[name], tmp_path / name)
        settings = tmp_path / name / "config.yaml"
        settings.write_text(settings.read_text().replace("select: last", "select: best"))
    settings.write_text(settings.read_text().replace("patience: null", "patience: 3"))
    here = {**folders, **{name: tmp_path / name for name in ("distilled", "undistilled")}}
    with pytest.raises(ValueError, match=r"^train\.patience of the run .* must be null, got 3"):
        write_report(report_config(here))


def test_run_of_another_length_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["undistilled"], tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"steps": 4', '"steps": 3'))
    with pytest.raises(ValueError, match="must have 4 steps, as the distilled one, got 3"):
        write_report(report_config({**folders, "undistilled": tmp_path / "run"}))


def test_settings_that_say_nothing_of_a_student_may_differ(folders: dict[str, Path]) -> None:
    config = load_config(RunConfig, folders["distilled"] / "config.yaml", [])
    other = dataclasses.replace(
        config,
        output="elsewhere",
        teachers=TeachersConfig(in_flight=9),
        watch=WatchConfig(metrics_port=9000),
        distill=DistillConfig(gamma=0.7, top_k=3),
    )
    check_arm(other, folders["undistilled"], UNDISTILLED)


@pytest.mark.everything
def test_write_report_beside_a_plain_student_tells_both_gains(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    vocabulary = tiny_vocabulary()
    for name, seed, teachers in (("distilled", 3, True), ("undistilled", 5, False)):
        write_run(tmp_path / name, vocabulary, seed, teachers=teachers, item_vectors="vectors")
    write_run(tmp_path / "plain", vocabulary, 6, teachers=False)
    here = {**folders, **{name: tmp_path / name for name in ("distilled", "undistilled")}}
    config = dataclasses.replace(report_config(here), plain=tmp_path / "plain")
    report = write_report(config)
    for key, name in (("ratios", "undistilled"), ("ratios_to_plain", "plain")):
        student, other = report["student"]["f1_at_50"], report[name]["f1_at_50"]
        assert report[key]["f1_at_50"] == (student / other if other else None)
    text = (tmp_path / "distilled" / "report.md").read_text()
    assert "| plain student |" in text
    assert "from `vectors`, undistilled too; plain: random" in text
    with pytest.raises(ValueError, match=r"^item_vectors of the run .* must be null, got vectors"):
        write_report(dataclasses.replace(config, plain=tmp_path / "undistilled"))


def test_main_writes_the_report_and_says_where(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"--run": "distilled", "--data": "data", "--undistilled": "undistilled"}
    arguments = [text for flag, name in names.items() for text in (flag, str(folders[name]))]
    teacher = ["--dialogue-teacher", str(folders["teacher"])]
    main([*arguments, *teacher, "--classifier", "oracle", "--oracle", "--limit", "3"])
    assert "report.md" in capsys.readouterr().out
    report = json.loads((folders["distilled"] / "report.json").read_text())
    assert report["student_oracle"]["num_responses"] == 3


def test_read_history_of_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, tiny_vocabulary(), seed=1, teachers=True)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="finished run, got 4 steps and no end"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{torn", r"metrics\.jsonl:2 must be JSON"), ('{"step": 1}', "got no loss")],
)
def test_read_history_with_a_bad_line_names_it(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"event": "start"}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        read_history(tmp_path)


def test_run_history_sums_histograms_over_steps(folders: dict[str, Path]) -> None:
    history = read_history(folders["distilled"])
    assert history.histogram("gate_histogram_item_steps") == [0] * 19 + [12]
    assert history.column("loss") == [5.0, 2.5, 5.0 / 3, 1.25]
    with pytest.raises(ValueError, match="must have gate_x"):
        history.histogram("gate_x")


def test_at_the_end_is_the_mean_over_the_last_tenth_of_the_steps(
    folders: dict[str, Path],
) -> None:
    history = read_history(folders["distilled"])
    steps = tuple(
        {**history.steps[0], "step": step, "nll": float(step), "kept_mass": step}
        for step in range(1, 41)
    )
    steps[-1]["kept_mass"] = None
    at_end = dataclasses.replace(history, steps=steps).at_end
    assert at_end["nll"] == (37 + 38 + 39 + 40) / 4
    assert at_end["kept_mass"] == (37 + 38 + 39) / 3
    assert at_end["recommendation_overlap_item_steps"] is None
    # Seconds and bytes are no end of their own, nor are the counts of a histogram.
    assert not {"step_s", "wire_bytes", "gate_histogram_item_steps"} & set(at_end)
    assert history.at_end["nll"] == 1.0


def test_closeness_is_drawn_of_the_steps_that_have_it(folders: dict[str, Path]) -> None:
    history = read_history(folders["distilled"])
    steps = tuple(
        {
            **history.steps[0],
            "step": step,
            "dialogue_student_mass": 0.1 * step if step % 2 else None,
            "recommendation_overlap_item_steps": 0.5,
        }
        for step in range(1, 6)
    )
    mass, agreement, overlap = closeness_figure(dataclasses.replace(history, steps=steps)).axes
    (drawn,) = mass.get_lines()
    assert np.asarray(drawn.get_xdata()).tolist() == [1, 3, 5]
    assert np.asarray(drawn.get_ydata()).tolist() == pytest.approx([0.1, 0.3, 0.5])
    assert not agreement.get_lines()
    assert [str(it.get_label()) for it in overlap.get_lines()] == ["recommendation, item steps"]


def test_smoothed_equals_a_mean_of_the_values_around() -> None:
    values = np.random.default_rng(0).random(20).tolist()
    for window in (1, 4, 5, 50):
        expected = []
        for i in range(20):
            reach = min(i, window // 2)
            expected.append(np.mean(values[i - reach : i + reach + 1]))
        assert smoothed(values, window) == pytest.approx(expected)


def test_smoothed_curve_of_a_falling_loss_lies_in_the_data() -> None:
    values = [10.0 * 0.9**i for i in range(200)]
    curve = smoothed(values, 50)
    assert curve[0] == values[0]
    assert np.abs(np.diff(curve)).max() <= np.abs(np.diff(values)).max()


def test_label_of_a_smoothed_curve_says_of_how_many_values(folders: dict[str, Path]) -> None:
    history = read_history(folders["distilled"])
    steps = tuple({**history.steps[0], "step": step} for step in range(1, 42))
    long = dataclasses.replace(history, steps=steps)
    labels = [str(line.get_label()) for line in loss_figure(long, long).axes[0].get_lines()]
    # Windows of 4: two before, two after, and the value itself.
    assert any("(mean of 5)" in label for label in labels), labels


def test_valid_losses_and_eta_are_drawn(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["distilled"], tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    valid = [json.dumps({"event": "valid", "step": step, "nll": 3.0}) for step in (2, 4)]
    path.write_text("\n".join([*lines[:-1], *valid, lines[-1]]) + "\n")
    history = read_history(tmp_path / "run")
    assert [entry["step"] for entry in history.valid] == [2, 4]
    axis = loss_figure(history, history).axes[1]
    drawn = {str(line.get_label()): line.get_xdata() for line in axis.get_lines()}
    assert np.asarray(drawn["distilled student, valid"]).tolist() == [2, 4]
    (gate,) = gate_figure(history, 0.6).axes
    assert any("eta 0.6" in str(line.get_label()) for line in gate.get_lines())


def test_context_turns_alternate_and_end_with_the_seeker(folders: dict[str, Path]) -> None:
    data = write_tiny_data(folders["data"])
    vocabulary = data.vocabulary
    example = data.examples("test")[0]
    eos = vocabulary.eos_id
    ids = [*vocabulary.encode(["hi"]), eos, eos, *vocabulary.encode(["yes"]), eos]
    longer = type(example)(
        example_id="d:3",
        context_ids=np.array(ids, np.int32),
        response_ids=example.response_ids,
        context_entities=example.context_entities,
        context_words=example.context_words,
        gold_items=example.gold_items,
    )
    expected = (("seeker", "hi"), ("recommender", ""), ("seeker", "yes"))
    assert context_turns(longer, vocabulary) == expected


def test_score_rows_of_a_missing_score_is_a_dash() -> None:
    rows = dict(score_rows([{"f1_at_10": 0.25, "actions": {"accuracy": None}}]))
    assert rows["F1@10"] == ["0.250"]
    assert rows["Perplexity"] == ["-"]
    assert rows["Accuracy of the action token"] == ["-"]
    assert look_up({"a": {"b": 2.0}}, "a.b") == 2.0
