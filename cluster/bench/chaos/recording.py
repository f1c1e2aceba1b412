"""Record the answers of real teachers for every training example of prepared data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.bench.chaos.evidence import example_fingerprint
from cluster.bench.chaos.trial import CONFIG
from cluster.bench.fleet.recording import record_kind
from cluster.bench.fleet.replay import over_the_wire
from cluster.stages import ROOT
from protos.codec import TargetRows
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.prepared import load_prepared


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
    fingerprints = {
        example.example_id: example_fingerprint(
            {kind: rows[index] for kind, rows in received.items()},
            range(len(example.response_ids)),
            0,
        )
        for index, example in enumerate(examples)
    }
    if len(set(fingerprints.values())) != len(set(zip(*keys.values(), strict=True))):
        raise ValueError("every input must have answers of its own, got two with the same.")
    return Recording(tables=tables, fingerprints=fingerprints)
