"""The report of a run, beside the students it is compared with: report.json, report.md, plots."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer.checkpoints.provenance import CONFIG_NAME
from trainer.common.atomic import write_json, write_text
from trainer.common.errors import InputError
from trainer.common.text_files import as_object, read_json_object
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.prepared import PreparedData, load_prepared
from trainer.evaluation.actions import ORACLE
from trainer.evaluation.arms import PLAIN, UNDISTILLED, check_arm, check_steps
from trainer.evaluation.drawing import require_matplotlib
from trainer.evaluation.evaluate import (
    EvaluateConfig,
    EvaluationResult,
    evaluate_model,
    readable,
    response_contexts,
    view_scores,
)
from trainer.evaluation.loaded_model import check_vocabulary, read_model_card, resolve_classifier
from trainer.evaluation.machine_facts import machine_facts
from trainer.evaluation.report_text import sample_dialogues, to_markdown
from trainer.evaluation.run_history import RunHistory, read_history
from trainer.scoring.metrics import CUTOFFS, scores
from trainer.scoring.scored_split import scored_split
from trainer.scoring.views import baseline_view

NUM_SAMPLES = 6
REPORTED = ("copy", "popularity")
"""Baselines beside the models."""
RATIO_KEYS = ("f1_at_1", "f1_at_10", "f1_at_50")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which run is reported, beside which other models."""

    run: Path
    """Run directory of the distilled student; the report is written there."""
    data: Path
    undistilled: Path
    """Run directory of the same student, from the same film rows, trained on gold tokens alone."""
    dialogue_teacher: Path
    plain: Path | None = None
    """Run directory of the same student with nothing from either teacher: random film rows too."""
    teachers: Path | None = None
    """teachers.json of `trainer.evaluation.teachers`: figures of the recommendation teacher."""
    oracle: bool = False
    """Evaluate the student a second time, with the gold action token, as an upper bound."""
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Evaluate, draw and write; returns what report.json holds.

    Raises:
        FileNotFoundError: if a piece of a run is missing; the message names it.
        InputError: if a run has not finished, the models' vocabularies are not the data's, or the
            students differ in more than their arms declare.
    """
    started = time.perf_counter()
    require_matplotlib()
    if config.teachers is not None and config.evaluate.limit is not None:
        raise InputError(
            "--teachers must be left out beside --limit, got both: its figures are of the whole "
            "split. Leave one of them out."
        )
    # What can be missing is looked for before the minutes of evaluation.
    data = load_prepared(config.data)
    for folder in _folders(config).values():
        card = read_model_card(folder)
        check_vocabulary(card.folder, card.vocabulary_digest, data.vocabulary.digest)
        resolve_classifier(card, config.evaluate.classifier)
    student_history = read_history(config.run)
    undistilled_history = read_history(config.undistilled)
    run_config = load_config(RunConfig, config.run / CONFIG_NAME, [])
    patience = run_config.train.patience
    check_arm(run_config, config.undistilled, UNDISTILLED)
    check_steps(student_history, undistilled_history, patience)
    if config.plain is not None:
        check_arm(run_config, config.plain, PLAIN)
        check_steps(student_history, read_history(config.plain), patience)

    recommendation = {} if config.teachers is None else _recommendation_teacher(config, data)

    results = _evaluate_all(config, data)
    report = {
        **_run_part(config, data, run_config, student_history),
        **{name: result.to_dict() for name, result in results.items()},
        "ratios": _ratios(results, "undistilled"),
        "ratios_to_plain": _ratios(results, "plain"),
        "baselines": _baselines(config, data),
        **recommendation,
    }
    distill = run_config.distill
    eta = distill.eta if distill.gate == "hard" else None
    plots = _draw(student_history, undistilled_history, config.run / "plots", eta)
    seconds = {name: sum(result.seconds.values()) for name, result in results.items()}
    report["seconds"] = {**seconds, "total": time.perf_counter() - started}
    examples = [context.example for context in response_contexts(data, config.evaluate)]
    texts = {
        name: [readable(record.text, data.vocabulary) for record in result.records]
        for name, result in results.items()
    }
    samples = sample_dialogues(examples, texts, data.vocabulary, NUM_SAMPLES)
    write_text(config.run / "report.md", to_markdown(report, plots, samples))
    write_json(config.run / "report.json", report)
    return report


def _folders(config: ReportConfig) -> dict[str, Path]:
    """The models of the report by the names that they have in it."""
    folders = {
        "student": config.run,
        "undistilled": config.undistilled,
        "dialogue_teacher": config.dialogue_teacher,
    }
    return folders if config.plain is None else {**folders, "plain": config.plain}


def _evaluate_all(config: ReportConfig, data: PreparedData) -> dict[str, EvaluationResult]:
    console = Console(stderr=True)
    plan = {name: (folder, config.evaluate) for name, folder in _folders(config).items()}
    if config.oracle:
        oracle = dataclasses.replace(config.evaluate, classifier=ORACLE)
        plan["student_oracle"] = (config.run, oracle)
    results = {}
    for name, (folder, evaluate) in plan.items():
        results[name] = evaluate_model(folder, data, evaluate)
        seconds = sum(results[name].seconds.values())
        console.print(f"evaluated {name} in {seconds:.0f} s", highlight=False)
    return results


def _run_part(
    config: ReportConfig, data: PreparedData, run_config: RunConfig, history: RunHistory
) -> dict[str, Any]:
    """Everything in the report that is known before the evaluation."""
    return {
        "run": {
            "folder": str(config.run),
            "data": str(config.data),
            "undistilled": str(config.undistilled),
            "dialogue_teacher": str(config.dialogue_teacher),
            "plain": None if config.plain is None else str(config.plain),
            "split": config.evaluate.split,
            "limit": config.evaluate.limit,
        },
        "config": dataclasses.asdict(run_config),
        "data": {
            "source": data.manifest.source,
            "vocabulary_digest": data.manifest.vocabulary_digest,
            "graph_digest": data.manifest.graph_digest,
            "splits": {k: dataclasses.asdict(v) for k, v in data.manifest.splits.items()},
        },
        **history.report,
        "at_end": history.at_end,
        "machine": machine_facts(),
    }


def _ratios(results: dict[str, EvaluationResult], name: str) -> dict[str, float | None] | None:
    """Student over another; null where the latter scores 0, or in all if it is not reported."""
    if name not in results:
        return None
    student, other = (scores(results[n].views["all"]) for n in ("student", name))
    return {k: _quotient(student[k], other[k]) for k in RATIO_KEYS}


def _quotient(mine: float | None, its: float | None) -> float | None:
    return mine / its if mine is not None and its else None


def _baselines(config: ReportConfig, data: PreparedData) -> dict[str, Any]:
    covered = {context.dialogue_id for context in response_contexts(data, config.evaluate)}
    split, train = scored_split(data, config.evaluate.split), data.dialogues("train")
    views = {name: baseline_view("paper", name, split, train, covered) for name in REPORTED}
    return {name: view_scores(each) for name, each in views.items()}


def _recommendation_teacher(config: ReportConfig, data: PreparedData) -> dict[str, Any]:
    """Figures of the first recommendation teacher in teachers.json, as the score table has them."""
    assert config.teachers is not None
    remedy = "Write it with: python -m trainer.evaluation.teachers."
    content = read_json_object(config.teachers, remedy=remedy)
    _check_teachers_data(config, content, data, remedy)
    seeds = as_object(content.get("recommendation"), f"{config.teachers}", remedy=remedy)
    try:
        recalls = next(iter(seeds.values()))
        views = {
            view: {f"recall_at_{k}": float(recalls[view][f"recall_at_{k}"]) for k in CUTOFFS}
            for view in ("all_gold", "new_items")
        }
    except (StopIteration, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{config.teachers} must have the recalls of a recommendation teacher, got {error!r}. "
            f"{remedy}"
        ) from error
    return {"recommendation_teacher": {**views["all_gold"], "new_items": views["new_items"]}}


def _check_teachers_data(
    config: ReportConfig, content: dict[str, Any], data: PreparedData, remedy: str
) -> None:
    """Refuse figures of another split or of other data."""
    split = content.get("split")
    if split != config.evaluate.split:
        raise InputError(
            f"{config.teachers} must be of the split {config.evaluate.split}, got {split}. {remedy}"
        )
    digests = {"vocabulary_digest": data.vocabulary.digest, "graphs_digest": data.graphs_digest}
    for key, digest in digests.items():
        # Files of before do not name what they are of.
        found = content.get(key, digest)
        if found != digest:
            raise InputError(
                f"{config.teachers} must have the data's {key} {digest}, got {found}. {remedy}"
            )


def _draw(
    student: RunHistory, undistilled: RunHistory, folder: Path, eta: float | None
) -> list[str]:
    # Imported here: matplotlib is an extra that only reports need.
    from trainer.evaluation.plots import draw_plots

    return draw_plots(student, undistilled, folder, eta=eta)
