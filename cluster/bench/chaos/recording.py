"""Record the answers of real teachers for every training example of prepared data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.bench.chaos.evidence import example_fingerprint
from cluster.bench.chaos.trial import CONFIG
from cluster.bench.fleet.recording import record_kind
from cluster.bench.fleet.replay import over_the_wire
from cluster.launch.machine import ROOT
from protos.codec import TargetRows
from protos.target_rows import Targets
from trainer.config.distill import DistillConfig
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.prepared import load_prepared
from trainer.kinds.table import asked_kinds
from trainer.loss.needed_rows import needed_examples, waits_for_dialogue


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Tables of answers, and how a client sees them."""

    tables: dict[str, Path]
    """Kind -> file."""
    fingerprints: dict[str, str]
    """Example id -> fingerprint of its rows from all teachers."""


def record_answers(data: Path, folders: dict[str, Path], output: Path) -> Recording:
    """Score every training example with all teachers, cut as in CONFIG.

    Raises:
        ValueError: if two inputs have the same answers, so that fingerprints prove nothing.
    """
    distill = load_config(RunConfig, ROOT / CONFIG, []).distill
    examples = load_prepared(data).examples("train")
    output.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Path] = {}
    keys: dict[str, list[str]] = {}
    received: dict[str, list[TargetRows]] = {}
    for kind, folder in folders.items():
        tables[kind] = output / f"{kind}.npz"
        keys[kind], answers = record_kind(kind, folder, examples, distill, tables[kind])
        received[kind] = [over_the_wire(answers[key], distill.value_format) for key in keys[kind]]
    fingerprints: dict[str, str] = {}
    inputs: set[tuple[str, ...]] = set()
    for index, example in enumerate(examples):
        length = len(example.response_ids)
        whole = {kind: rows[index] for kind, rows in received.items()}
        targets = _handed_out(whole, length, distill)
        fingerprints[example.example_id] = example_fingerprint(targets, range(length), 0)
        asked = [kind for kind, rows in targets.items() if not rows.is_absent_R.any()]
        inputs.add(tuple(keys[kind][index] for kind in asked))
    if len(set(fingerprints.values())) != len(inputs):
        raise ValueError("every input must have answers of its own, got two with the same.")
    return Recording(tables=tables, fingerprints=fingerprints)


def _handed_out(targets: Targets, length: int, distill: DistillConfig) -> Targets:
    """An example's rows as a client gives them: absent where the gate gives them no weight."""
    given = dict(targets)
    for name, kind in asked_kinds(distill).items():
        if waits_for_dialogue(kind, distill):
            needed = needed_examples(kind, targets, [length], distill)
            given[name] = targets[name].take(needed).spread(needed, 1)
    return given
