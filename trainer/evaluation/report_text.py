"""The report in Markdown: tables, plots and a few dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.examples import Example
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.evaluate import gold_text
from trainer.scoring.metrics import CUTOFFS, DISTINCT_N, METRICS
from trainer.telemetry.run_totals import RUN_TOTALS
from trainer.telemetry.step_metrics import TAUGHT_METRICS

CONTEXT_TURNS = 4
NEW = "new_items."
FILM_KEYS = tuple(
    f"{prefix}{name}_at_{k}"
    for prefix, names in (
        ("", ("f1", "rer", "prr", "recall")),
        (NEW, ("f1", "recall")),
        ("", ("conventional_f1",)),
    )
    for name in names
    for k in CUTOFFS
)
TEXT_KEYS = (
    *("rec_ratio", "gold_rec_ratio", "perplexity", "bits_per_character"),
    *(f"{name}_{n}" for name in ("dist", "conventional_dist") for n in DISTINCT_N[1:]),
    "words_per_response",
)
COMPARED = (
    *(f"{prefix}_at_{k}" for prefix in ("f1", f"{NEW}f1", "conventional_f1") for k in CUTOFFS),
    "perplexity",
)
"""Scores in which a loss is said in words."""
ACCURACY = ("Accuracy of the action token", "actions.accuracy")
METRIC_OF = {metric.name: metric for metric in METRICS}
MODEL_TITLES = {
    "student": "distilled student",
    "student_oracle": "distilled student, gold action",
    "undistilled": "undistilled student",
    "plain": "plain student",
    "dialogue_teacher": "dialogue teacher",
    "recommendation_teacher": "recommendation teacher",
    "copy": "copy baseline",
    "popularity": "popularity baseline",
}


@dataclass(frozen=True, kw_only=True)
class SampleDialogue:
    """One context with its gold response and what the models said."""

    example_id: str
    turns: tuple[tuple[str, str], ...]
    """(who, text) of the last turns, the seeker's last."""
    gold: str
    outputs: dict[str, str]
    """Model name -> generated text."""


def score_rows(results: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """(metric, one cell per model), "-" where a model has no such score."""
    rows = [*((score_title(key), key) for key in (*FILM_KEYS, *TEXT_KEYS)), ACCURACY]
    return [(title, [_cell(look_up(result, key)) for result in results]) for title, key in rows]


def score_title(key: str) -> str:
    """What people are told of a score, by its key in report.json."""
    note = ", new films only" if key.startswith(NEW) else ""
    return f"{METRIC_OF[key.removeprefix(NEW)].title}{note}"


def look_up(result: dict[str, Any], dotted_key: str) -> float | None:
    """The number at a dotted key, None if it is not there."""
    value: Any = result
    for key in dotted_key.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def context_turns(example: Example, vocabulary: Vocabulary) -> tuple[tuple[str, str], ...]:
    """The last turns of a context; they alternate, and the seeker spoke last."""
    turns: list[list[int]] = [[]]
    for token_id in example.context_ids.tolist():
        if token_id == vocabulary.eos_id:
            turns.append([])
        else:
            turns[-1].append(token_id)
    last = turns[:-1][-CONTEXT_TURNS:]
    roles = ["seeker" if (len(last) - i) % 2 else "recommender" for i in range(len(last))]
    return tuple(
        (role, vocabulary.decode(turn).strip()) for role, turn in zip(roles, last, strict=True)
    )


def sample_dialogues(
    examples: Sequence[Example],
    texts: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary,
    num_samples: int,
) -> list[SampleDialogue]:
    """Evenly spaced examples whose gold response recommends; the same ones in every report."""
    candidates = [i for i, example in enumerate(examples) if example.is_recommendation]
    stride = max(1, len(candidates) // num_samples)
    return [
        SampleDialogue(
            example_id=examples[i].example_id,
            turns=context_turns(examples[i], vocabulary),
            gold=gold_text(examples[i], vocabulary),
            outputs={name: outputs[i] for name, outputs in texts.items()},
        )
        for i in candidates[::stride][:num_samples]
    ]


def to_markdown(report: dict[str, Any], plots: list[str], samples: list[SampleDialogue]) -> str:
    """The whole of report.md."""
    parts = [
        "# Distillation report",
        _what_was_run(report),
        "## Scores",
        _score_table(report),
        _score_notes(report),
        "## Gate and teachers",
        _teacher_text(report),
        *(f"![{name.removesuffix('.png')}](plots/{name})" for name in plots),
        "## Sample dialogues",
        *(_sample_text(sample) for sample in samples),
    ]
    return "\n\n".join(parts) + "\n"


def _what_was_run(report: dict[str, Any]) -> str:
    run, machine, distill = report["run"], report["machine"], report["config"]["distill"]
    rows = [
        ("run", _folder(run["folder"])),
        ("undistilled student", _folder(run["undistilled"])),
        ("dialogue teacher", _folder(run["dialogue_teacher"])),
        ("data", f"{_folder(run['data'])}, {report['data']['source']}, split {run['split']}, "
                 f"{report['student']['num_responses']} responses"),
        ("vocabulary digest", f"`{report['data']['vocabulary_digest']}`"),
        ("graph digest", f"`{report['data']['graph_digest']}`"),
        ("loss", f"gamma {_scheduled(distill, 'gamma')}, temperature "
                 f"{_scheduled(distill, 'temperature')}, {_gate_text(distill)}, "
                 f"top {distill['top_k']} entries, tail {distill['tail']}"
                 f"{_named_teachers(distill)}"),
        ("item rows", _item_rows(report)),
        ("training", f"{report['steps']} steps, {_cell(report['tokens_per_s'])} tokens/s"),
        ("action token", report["student"]["actions"]["source"]),
        ("machine", f"{machine['cores']} cores, {machine['threads']} threads, "
                    f"torch {machine['torch']}, {machine['device']}"),
        ("evaluation", f"{report['seconds']['total']:.0f} s"),
    ]  # fmt: skip
    return _table(["what", "which"], [[name, value] for name, value in rows], numbers=False)


def _scheduled(distill: dict[str, Any], name: str) -> str:
    schedule = distill[f"{name}_schedule"]
    if schedule["form"] == "constant":
        return str(distill[name])
    return f"{distill[name]} to {schedule['to']} in {schedule['steps']} steps ({schedule['form']})"


def _named_teachers(distill: dict[str, Any]) -> str:
    """The teachers that the run named, and their parts; empty: it took one of each kind."""
    parts = {name: it["weight"] for name, it in distill["teachers"].items()}
    told = [name if part is None else f"{part} {name}" for name, part in parts.items()]
    return f"; teachers {', '.join(told)}" if told else ""


def _gate_text(distill: dict[str, Any]) -> str:
    gate = f"{distill['gate']} gate"
    details = {"hard": f", eta {distill['eta']}", "fixed": f", lambda {distill['fixed_lambda']}"}
    return gate + details.get(distill["gate"], "")


def _item_rows(report: dict[str, Any]) -> str:
    folder = report["config"]["item_vectors"]
    if folder is None:
        return "random"
    plain = "; plain: random" if report["run"]["plain"] else ""
    return f"from {_folder(folder)}, undistilled too{plain}"


def _folder(path: str) -> str:
    """A folder's name: where it lay on the machine says nothing to a reader elsewhere."""
    return f"`{Path(path).name or path}`"


def _score_table(report: dict[str, Any]) -> str:
    models = {name: report[name] for name in MODEL_TITLES if name in report}
    models |= report["baselines"]
    rows = [[title, *cells] for title, cells in score_rows(list(models.values()))]
    return _table(["metric", *(MODEL_TITLES[name] for name in models)], rows, numbers=True)


def _score_notes(report: dict[str, Any]) -> str:
    student = report["student"]
    return (
        f"{losses_text(report)}\n\n{_ratio_text(report)} The student's F1@10 rests on "
        f"{_count(student['gold'])} gold films and {_count(student['slots'])} generated "
        "positions.\n\n"
        "F1, ReR and PrR count each gold item and each generated position at most once (maximum "
        "matching); the rows with pair counts do not, as in the literature, and can exceed 1. New "
        "films only: films that the context names are left out of gold and of the ranked lists. "
        "R@k is of one list for the whole response. The baselines know when to recommend, and only "
        "rank, as the recommendation teacher does. Perplexity and the "
        "oracle use the gold action token; a model without action tokens predicts under less "
        "knowledge."
    )


def losses_text(report: dict[str, Any]) -> str:
    """In words, where the student is no better than what it is compared with."""
    others = {name: report[name] for name in ("undistilled", "plain") if name in report}
    others |= report["baselines"]
    sentences = []
    for name, other in others.items():
        worse = [
            f"{score_title(key)} ({_cell(mine)} against {_cell(its)})"
            for key in COMPARED
            for mine, its in [(look_up(report["student"], key), look_up(other, key))]
            if mine is not None and its is not None and mine != its
            if (mine > its) == METRIC_OF[key.removeprefix(NEW)].lower_is_better
        ]
        if worse:
            sentences.append(
                f"The distilled student loses to the {MODEL_TITLES[name]} in {', '.join(worse)}."
            )
    names = ", ".join(MODEL_TITLES[name] for name in others)
    none = f"The distilled student loses to none of these in any score compared: {names}."
    return " ".join(sentences) or none


def _ratio_text(report: dict[str, Any]) -> str:
    """What the loss gains, and what both teachers' knowledge gains together."""
    ratios = {
        "the undistilled student (what the loss gains)": report["ratios"],
        "the plain student, which has nothing from either teacher": report["ratios_to_plain"],
    }
    return " ".join(
        f"Over {name}: F1@10 {_cell(ratio['f1_at_10'])}, F1@50 {_cell(ratio['f1_at_50'])}."
        for name, ratio in ratios.items()
        if ratio is not None
    )


def _teacher_text(report: dict[str, Any]) -> str:
    if report["config"]["distill"]["gamma"] == 0:
        return "No teacher was asked in this run (gamma 0)."
    rows = [
        [metric.text.partition(";")[0], _number(report[group][key])]
        for metric in RUN_TOTALS
        for group, _, key in [metric.report.partition(".")]
        # What is not in a group has its place among what was run.
        if key
    ]
    rows += [
        [f"at the end, {metric.text.partition(';')[0]}", _number(report["at_end"][metric.name])]
        for metric in TAUGHT_METRICS
    ]
    return _table(["what", "value"], rows, numbers=True)


def _sample_text(sample: SampleDialogue) -> str:
    lines = [*sample.turns, ("-> gold", sample.gold)]
    lines += [(f"-> {MODEL_TITLES[name]}", text) for name, text in sample.outputs.items()]
    width = max(len(who) for who, _ in lines)
    body = "\n".join(f"{who:<{width}}  {text.replace('```', '')}" for who, text in lines)
    return f"`{sample.example_id}`\n\n```text\n{body}\n```"


def _table(header: list[str], rows: list[list[str]], *, numbers: bool) -> str:
    align = ["---", *(["---:" if numbers else "---"] * (len(header) - 1))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align, *rows])


def _number(value: float | None) -> str:
    return str(value) if isinstance(value, int) else _cell(value)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
