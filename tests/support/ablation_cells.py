"""Finished cells of an ablation, without any training: counts are drawn, or given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.ablation.arms import CEILING, table_of
from trainer.ablation.cell import VIEWS, Cell, write_cell
from trainer.ablation.config import AblationConfig
from trainer.ablation.revision import Revision
from trainer.config.yaml_file import parse_config
from trainer.scoring.metrics import scores
from trainer.scoring.sums import DialogueSums

REVISION = Revision(training="aa" * 32, scoring="bb" * 32)
NUM_DIALOGUES = 40


def ablation_config(root: Path, **tables: Mapping[str, Any]) -> AblationConfig:
    """A config whose folders lie in `root`; without tables it has `paper`."""
    settings = {
        "run": {
            "data": str(root / "data"),
            "output": str(root / "runs"),
            "action_tokens": False,
            "distill": {"gamma": 0.8},
            "train": {"steps": 4, "batch_size": 2, "group": "dialogue"},
        },
        "teachers": {
            "dialogue": str(root / "dialogue"),
            "recommendation": str(root / "recommendation"),
        },
        "tables": dict(tables) or {"paper": {}},
    }
    return parse_config(AblationConfig, settings, "test")


def drawn_sums(seed: int, *, hits: float = 0.2, names_films: bool = True) -> DialogueSums:
    """Counts of a system that finds a share of the gold films; the gold is always the same."""
    gold_N = np.random.default_rng(0).integers(1, 6, NUM_DIALOGUES)
    rng = np.random.default_rng(seed + 1)
    counts: dict[str, np.ndarray] = {"gold": gold_N, "responses": gold_N + 2}
    for k in (1, 10, 50):
        counts[f"matched_{k}"] = rng.binomial(gold_N, hits) if names_films else 0 * gold_N
    counts["slots"] = gold_N if names_films else 0 * gold_N
    counts["responses_with_slot"] = counts["slots"]
    counts["nll"] = 4.0 * gold_N
    counts["gold_tokens"] = gold_N
    return DialogueSums(
        dialogues=tuple(f"d{n}" for n in range(NUM_DIALOGUES)),
        counts={name: it.astype(np.float64) for name, it in counts.items()},
    )


def cell(
    table: str,
    arm: str,
    seed: int = 0,
    *,
    sums: DialogueSums | None = None,
    shared: Mapping[str, Any] | None = None,
    revision: Revision = REVISION,
    sources: Mapping[str, Any] | None = None,
) -> Cell:
    """A finished cell of an arm that the table declares."""
    found = drawn_sums(seed) if sums is None else sums
    of_arm = {} if arm in CEILING else table_of(table).arm(arm).settings
    of_run = {} if arm in CEILING else {"train.steps": 4, "train.batch_size": 2}
    return Cell(
        table=table,
        arm=arm,
        seed=seed,
        settings=dict(of_arm),
        shared=of_run if shared is None else shared,
        revision=revision,
        sources={"vocabulary": "v" * 8, "teachers": {}} if sources is None else sources,
        machine={"cpu": "two slow ones", "cores": 2, "memory_gib": 4, "device": "cpu"},
        seconds={"train": 90.0, "respond": 30.0},
        steps={"loss": 4.5},
        scores={view: scores(found) for view in VIEWS},
        sums={view: found.to_dict() for view in VIEWS},
    )


def write_cells(folder: Path, *cells: Cell) -> None:
    """Write cells where a runner would."""
    for each in cells:
        write_cell(folder / each.table / f"{each.name}.json", each)
