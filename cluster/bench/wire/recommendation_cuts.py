"""What it saves, and what it does to the student's gradient, to cut recommendation rows by mass.

Rows of responses that name an item, as the fitted teacher gives them: whole, and cut where their
mass reaches top_p, in 8-bit values. Students are distributions over the items alone, near the
teacher and far from it; the gold token is the first item that is named. Bytes are of blocks of as
many rows as one request has.

R rows, I items.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from cluster.bench.result import Row
from cluster.bench.wire import gradients
from protos import codec
from protos.codec import TargetRows
from protos.teacher_pb2 import Compression
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.kinds import load_teacher
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits, recommendation_input
from trainer.kinds.names import RECOMMENDATION

TOP_PS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
NUM_ROWS = 96
ROWS_PER_BLOCK = 6


def cut_rows(folder: Path, examples: Sequence[Example], distill: DistillConfig) -> list[Row]:
    """A line per cut and student: entries, kept mass and bytes of a row, errors of the gradient.

    `rel_error` is of the teacher's part of dL/dlogits, `rel_error_loss` of the student's loss with
    its gold token, with the gamma of `distill`.
    """
    teacher = load_teacher(RECOMMENDATION, folder, torch.device("cpu"))
    named = [example for example in examples if len(example.gold_items)][:NUM_ROWS]
    whole = _over_items(teacher, _score(teacher, named, Compression()))
    log_probs_RI = torch.from_numpy(whole.log_probs_E.reshape(whole.num_rows, -1))
    labels_R = torch.tensor([int(example.gold_items[0]) for example in named])
    hidden_R1 = torch.ones(len(named), 1)
    by_name = gradients.students(log_probs_RI, labels_R, hidden_R1)
    teacher_RI = log_probs_RI.double().exp()
    rows: list[Row] = []
    top_ps = sorted({*TOP_PS, distill.recommendation_top_p})
    for top_p, (name, student) in itertools.product(top_ps, by_name.items()):
        cut = Compression(top_p=top_p, top_k=distill.recommendation_top_k)
        sent = _over_the_wire(_over_items(teacher, _score(teacher, named, cut)))
        wanted_RI = gradients.dense_gradient(student, teacher_RI)
        got_RI = gradients.truncated_gradient(student, sent, distill.tail)
        losses = [gradients.with_gold(student, it, distill.gamma) for it in (got_RI, wanted_RI)]
        rows.append(
            {
                "top_p": top_p,
                "student": name,
                "entries": float(sent.counts_R.mean()),
                "kept_mass": float(1.0 - sent.tail_R.mean()),
                "row_bytes": _bytes_per_row(sent),
                "rel_error": gradients.relative_error(got_RI, wanted_RI),
                "rel_error_loss": gradients.relative_error(*losses),
            }
        )
    return rows


def _score(teacher: Teacher, examples: Sequence[Example], cut: Compression) -> TargetRows:
    limits = InputLimits.of(teacher.description)
    return teacher.score([recommendation_input(it, limits) for it in examples], cut)


def _over_items(teacher: Teacher, rows: TargetRows) -> TargetRows:
    """The same rows over the items alone: ids from 0."""
    first, number = teacher.description.first_item_id, teacher.description.num_items
    return dataclasses.replace(rows, ids_E=rows.ids_E - first, vocab_size=number)


def _over_the_wire(rows: TargetRows) -> TargetRows:
    block = codec.encode(rows, codec.UINT8)
    return codec.decode(block, num_rows=rows.num_rows, vocab_size=rows.vocab_size)


def _bytes_per_row(rows: TargetRows) -> float:
    full, rest = divmod(rows.num_rows, ROWS_PER_BLOCK)
    parts = rows.split([ROWS_PER_BLOCK] * full + [rest] * (rest > 0))
    return sum(len(codec.encode(part, codec.UINT8)) for part in parts) / rows.num_rows
