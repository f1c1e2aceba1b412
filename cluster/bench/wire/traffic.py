"""All bytes that the targets of a run's first steps put on the wire, per supervised position."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cluster.bench.corpus import Corpus
from cluster.bench.result import Row
from cluster.bench.wire.metered_fleet import Exchange, ask_metered
from cluster.launch.machine import ROOT
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.kinds import load_teacher
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.loader import LoaderConfig, batches
from trainer.data.prepared import load_prepared
from trainer.kinds.names import DIALOGUE, RECOMMENDATION

# 640 responses of a rank, some 8,000 positions.
NUM_STEPS = 40
NUM_RANKS = 2


def bytes_per_position(exchanges: Sequence[Exchange], positions: int) -> dict[str, float]:
    """The parts of all bytes over the positions that they supervise, and their sum."""

    def reply_bytes(kind: str) -> int:
        return sum(it.reply_bytes for it in exchanges if it.kind == kind)

    parts = {
        "requests": sum(it.request_bytes for it in exchanges),
        "dialogue": reply_bytes(DIALOGUE),
        "recommendation": reply_bytes(RECOMMENDATION),
        "headers": sum(it.header_bytes for it in exchanges),
    }
    total = {"bytes_per_position": sum(parts.values()) / positions}
    return total | {f"bytes_per_position_{name}": it / positions for name, it in parts.items()}


def traffic_rows(exchanges: Sequence[Exchange], positions: int) -> list[Row]:
    """A line per kind of teacher: messages, rows, and the bytes a position of each part."""
    rows: list[Row] = []
    for kind in dict.fromkeys(it.kind for it in exchanges):
        of_kind = [it for it in exchanges if it.kind == kind]
        row: Row = {"kind": kind, "requests": len(of_kind)}
        row["rows"] = sum(it.num_rows for it in of_kind)
        for name in ("request_bytes", "reply_bytes", "header_bytes"):
            row[f"{name}_per_position"] = sum(getattr(it, name) for it in of_kind) / positions
        rows.append(row)
    return rows


def recipe_of(corpus: Corpus) -> RunConfig:
    """The settings of students on these dialogues."""
    places = [f"data={corpus.data}", "output=unused"]
    return load_config(RunConfig, ROOT / corpus.recipe, places)


def measure_traffic(corpus: Corpus, config: RunConfig) -> tuple[dict[str, float], list[Row]]:
    """Figures and table of the first steps of a rank, of the settings of a run."""
    data = load_prepared(corpus.data)
    loader = LoaderConfig(
        batch_size=config.train.batch_size,
        seed=config.seed,
        rank=0,
        world_size=NUM_RANKS,
        group="response" if config.action_tokens and not config.action_history else "dialogue",
    )
    steps = itertools.islice(batches(data.examples("train"), loader), NUM_STEPS)
    micro_batches = [part for batch in steps for part in batch.parts]
    _, exchanges = ask_metered(
        micro_batches,
        load_teachers(corpus.folders),
        distill=config.distill,
        vocabulary=data.vocabulary,
        seed=config.seed,
    )
    positions = sum(len(example.response_ids) for part in micro_batches for example in part)
    figures = bytes_per_position(exchanges, positions)
    return figures | {"positions": positions}, traffic_rows(exchanges, positions)


def load_teachers(folders: Mapping[str, Path]) -> dict[str, Teacher]:
    """The frozen teacher of each kind, on the CPU."""
    cpu = torch.device("cpu")
    return {kind: load_teacher(kind, folder, cpu) for kind, folder in folders.items()}
