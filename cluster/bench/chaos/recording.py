"""Record the answers of real teachers for every training example of prepared data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.chaos.evidence import example_fingerprint
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
    fingerprints: dict[str, str]
    """Example id -> fingerprint of its rows from both teachers."""


def record_answers(data: Path, folders: dict[str, Path], output: Path) -> Recording:
    """Score every training example with both teachers, cut as in CONFIG.

    Raises:
        ValueError: if two inputs have the same answers, so that fingerprints prove nothing.
    """
    distill = load_config(RunConfig, ROOT / CONFIG, []).distill
    examples = load_prepared(data).examples("train")
    output.mkdir(parents=True, exist_ok=True)
    tables, rows, inputs = {}, [], []
    for kind, folder in folders.items():
        tables[kind] = output / f"{kind}.npz"
        keys, answers = record_kind(kind, folder, examples, distill, tables[kind])
        inputs.append(keys)
        rows.append([over_the_wire(answers[key], distill.value_format) for key in keys])
    fingerprints = _fingerprints(examples, *rows)
    if len(set(fingerprints.values())) != len(set(zip(*inputs, strict=True))):
        raise ValueError("every input must have answers of its own, got two with the same.")
    return Recording(tables=tables, fingerprints=fingerprints)


def _fingerprints(
    examples: Sequence[Example],
    dialogue: Sequence[TargetRows],
    recommendation: Sequence[TargetRows],
) -> dict[str, str]:
    targets = [
        TeacherTargets(dialogue=dialogue_rows, recommendation=item_rows)
        for dialogue_rows, item_rows in zip(dialogue, recommendation, strict=True)
    ]
    return {
        example.example_id: example_fingerprint(each, range(each.dialogue.num_rows), 0)
        for example, each in zip(examples, targets, strict=True)
    }
