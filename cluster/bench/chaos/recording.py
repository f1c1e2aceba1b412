"""Records what real teachers answer about every training example of prepared data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.bench.chaos.evidence import print_of
from cluster.bench.chaos.replay import key_of, over_the_wire, record, save_answers
from cluster.bench.chaos.trial import CONFIG
from cluster.bench.in_process import cut_of
from cluster.stages import ROOT
from protos.codec import TargetRows
from teacher_server.compress import Cut
from teacher_server.facts import Teacher
from teacher_server.teachers import load_teacher
from trainer.config import DistillConfig, RunConfig
from trainer.config_file import load_config
from trainer.conkd import TeacherTargets
from trainer.data.examples import Example
from trainer.data.model_input import ExampleInput, dialogue_input, recommendation_input
from trainer.data.prepare import load_prepared


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Tables of answers, and how a client sees them."""

    tables: dict[str, Path]
    """Kind -> file."""
    prints: dict[str, str]
    """Example id -> print of its rows from both teachers."""


def record_answers(data: Path, folders: dict[str, Path], output: Path) -> Recording:
    """Score every training example with both teachers, cut as CONFIG asks for it.

    Raises:
        ValueError: if different questions have the same answers, so that prints prove nothing.
    """
    distill = load_config(RunConfig, ROOT / CONFIG, []).distill
    examples = load_prepared(data).examples("train")
    output.mkdir(parents=True, exist_ok=True)
    tables, rows, questions = {}, [], []
    for kind, folder in folders.items():
        tables[kind] = output / f"{kind}.npz"
        keys, answers = record_kind(kind, folder, examples, distill, tables[kind])
        questions.append(keys)
        rows.append([over_the_wire(answers[key], distill.value_format) for key in keys])
    prints = _prints(examples, *rows)
    if len(set(prints.values())) != len(set(zip(*questions, strict=True))):
        raise ValueError("every question must have answers of its own, got two that share theirs.")
    return Recording(tables=tables, prints=prints)


def record_kind(
    kind: str, folder: Path, examples: Sequence[Example], distill: DistillConfig, table: Path
) -> tuple[list[str], dict[str, TargetRows]]:
    """Score examples into a table; the key of every example, and all rows by key."""
    teacher = load_teacher(kind, folder, torch.device("cpu"))
    inputs = _inputs(teacher, examples)
    answers = record(teacher, inputs, _cut(kind, distill))
    save_answers(table, answers)
    return [key_of(each) for each in inputs], answers


def _inputs(teacher: Teacher, examples: Sequence[Example]) -> list[ExampleInput]:
    to_input = dialogue_input if teacher.facts.kind == "dialogue" else recommendation_input
    return [to_input(example, teacher.facts.limits) for example in examples]


def _cut(kind: str, distill: DistillConfig) -> Cut:
    if kind == "dialogue":
        return cut_of(distill, distill.top_k, 1.0)
    return cut_of(distill, distill.recommendation_top_k, distill.recommendation_top_p)


def _prints(
    examples: Sequence[Example],
    dialogue: Sequence[TargetRows],
    recommendation: Sequence[TargetRows],
) -> dict[str, str]:
    targets = [
        TeacherTargets(dialogue=said, recommendation=meant)
        for said, meant in zip(dialogue, recommendation, strict=True)
    ]
    return {
        example.example_id: print_of(each, range(each.dialogue.num_rows), 0)
        for example, each in zip(examples, targets, strict=True)
    }
