"""One forward per dialogue beside one per response: how many tokens, and how fast a teacher is.

Beside both, what it costs a teacher to score each dialogue alone, as `up --deterministic` does.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cluster.bench.result import Row
from cluster.bench.step.arms import GROUPED, SINGLE
from protos.teacher_pb2 import Compression
from teacher_server.scoring.determinism import ALONE
from teacher_server.scoring.device_batches import BatchLimits, score_together
from teacher_server.scoring.score_work import ScoreWork, columns_of
from teacher_server.scoring.teachers import DialogueTeacher
from trainer.data.examples import Example
from trainer.data.loader import LoaderConfig, batches
from trainer.data.model_input import (
    InputLimits,
    SequenceInput,
    collate,
    dialogue_input,
    merge_sequences,
)

CUT = Compression(top_k=64)
DETERMINISTIC = "one pass per dialogue, each alone"
SCORED_BATCHES = 2
SCORING_TURNS = 3


def sequence_figures(examples: list[Example], batch_size: int) -> dict[str, float]:
    """Tokens per supervised position in both forms, and padding, of an epoch on one rank."""
    loader = LoaderConfig(batch_size=batch_size, seed=0, rank=0, world_size=1)
    single = grouped = slots = rows = 0
    for batch in itertools.islice(batches(examples, loader), len(examples) // batch_size):
        inputs = _inputs(batch.examples)
        model = collate(merge_sequences(inputs), pad_id=0)
        single += sum(len(each.tokens) for each in inputs)
        grouped += int(model.lengths_B.sum())
        slots += model.input_ids_BL.numel()
        rows += sum(each.num_rows for each in inputs)
    return {
        "tokens_per_position": grouped / rows,
        "tokens_per_position_single": single / rows,
        "grouped_padding": 1.0 - grouped / slots,
    }


def scoring_rows(folder: Path, examples: list[Example], batch_size: int) -> list[Row]:
    """Seconds in which a dialogue teacher scores the same batches in each form, in turn."""
    teacher = DialogueTeacher.load(folder, torch.device("cpu"))
    loader = LoaderConfig(batch_size=batch_size, seed=0, rank=0, world_size=1)
    drawn = list(itertools.islice(batches(examples, loader), SCORED_BATCHES))
    single = [_inputs(batch.examples) for batch in drawn]
    grouped = [merge_sequences(inputs) for inputs in single]
    forms = {
        SINGLE: (single, BatchLimits()),
        GROUPED: (grouped, BatchLimits()),
        DETERMINISTIC: (grouped, BatchLimits(**ALONE)),
    }
    rows: list[Row] = []
    for turn in range(SCORING_TURNS + 1):
        for form, (parts, limits) in forms.items():
            started = time.perf_counter()
            number = sum(_score(teacher, inputs, limits) for inputs in parts)
            seconds = time.perf_counter() - started
            # The first turn warms up.
            if turn:
                rows.append({"turn": turn, "arm": form, "seconds": seconds, "rows": number})
    return rows


def _score(teacher: DialogueTeacher, inputs: Sequence[SequenceInput], limits: BatchLimits) -> int:
    work = ScoreWork(columns_of(inputs), CUT, max_entries=0, num_bytes=0, max_reply_bytes=0)
    (rows,) = score_together(teacher.score, [work], limits)
    return rows.num_rows


def _inputs(examples: Sequence[Example]) -> list[SequenceInput]:
    return [dialogue_input(example, InputLimits()) for example in examples]


def ratios_of(rows: list[Row], fast: str, slow: str) -> list[float]:
    """How many times as fast one arm did the same work as another, turn by turn."""
    seconds = {(row["turn"], row["arm"]): float(row["seconds"]) for row in rows if row["turn"]}
    turns = sorted({turn for turn, _ in seconds})
    return np.array([seconds[turn, slow] / seconds[turn, fast] for turn in turns]).tolist()
