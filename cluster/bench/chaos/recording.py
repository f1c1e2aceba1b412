"""Records what real teachers answer about every training example of prepared data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.chaos.evidence import print_of
from cluster.bench.chaos.trial import CONFIG
from cluster.bench.fleet.recording import record_kind
from cluster.bench.fleet.replay import over_the_wire
from cluster.stages import ROOT
from protos.codec import TargetRows
from protos.target_rows import TeacherTargets
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.examples import Example
from trainer.data.prepared import load_prepared


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
