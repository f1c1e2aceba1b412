"""What does a position cost on the wire, and what does the saving do to the student's gradient?

Everything that a rank sends and gets is counted over the first steps of a run (traffic.py). Beside
that the dialogue teacher answers valid requests; its rows are cut at k = 8 to 1,024 and encoded.
Bytes are those of gRPC's messages and HTTP/2 frames, not of blocks alone. Near and far students see
every treatment of the dropped mass beside the dense teacher.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cluster.bench.corpus import fitted_corpus, requests
from cluster.bench.plots import draw_wire
from cluster.bench.result import RESULTS, BenchResult, Row
from cluster.bench.teacher_logits import DialogueLogits, TeacherLogits
from cluster.bench.wire import gradients
from cluster.bench.wire.metered_fleet import header_bytes, reply_of
from cluster.bench.wire.recommendation_cuts import cut_rows
from cluster.bench.wire.traffic import measure_traffic, recipe_of
from protos import codec
from protos.codec import TargetRows
from protos.teacher_pb2 import Compression
from trainer.config.distill import DistillConfig

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
NUM_REQUESTS = 20
# Requests whose gradients are computed: each takes a few float64 arrays of [positions, vocabulary].
NUM_GRADIENT_REQUESTS = 1
NUM_TIMINGS = 15
UINT8 = codec.UINT8


def bench_wire(source: Path | None) -> BenchResult:
    """Bytes, speed and gradient errors; seconds per figure on one core."""
    torch.set_num_threads(1)
    corpus = fitted_corpus(source)
    teacher = TeacherLogits.load(corpus.dialogue)
    scored = [teacher.score(part) for part in requests(corpus.examples("valid"))[:NUM_REQUESTS]]
    rows = _gradient_rows(teacher, scored)
    draw_wire(rows, RESULTS / "wire.png")
    config = recipe_of(corpus)
    traffic, by_kind = measure_traffic(corpus, config)
    cuts = cut_rows(corpus.recommendation, corpus.examples("valid"), config.distill)
    at_64 = [teacher.cut(each, Compression(top_k=64)) for each in scored]
    encode_s, decode_s = _seconds(at_64)
    positions = sum(part.num_rows for part in at_64)
    bucket = [row for row in rows if (row["k"], row["tail"]) == (64, "bucket")]
    return BenchResult(
        figures={
            **traffic,
            "grad_rel_error_recommendation": max(
                float(it["rel_error_loss"])
                for it in cuts
                if it["top_p"] == config.distill.recommendation_top_p
            ),
            "dialogue_reply_bytes_k64": _reply_bytes_per_position(at_64),
            "dialogue_reply_bytes_k256": _reply_bytes_per_position(
                [teacher.cut(each, Compression(top_k=256)) for each in scored]
            ),
            "dialogue_reply_bytes_k64_json": _json_bytes(at_64[0]),
            "grad_rel_error_quantised": max(float(it["quantised_loss"]) for it in bucket),
            "grad_rel_error_quantised_teacher_alone": max(float(it["quantised"]) for it in bucket),
            "grad_cos_dense_bucket_k64": min(float(it["cosine"]) for it in bucket),
            "encode_positions_per_s": positions / encode_s,
            "decode_positions_per_s": positions / decode_s,
            "positions_per_block": positions / len(at_64),
        },
        rows=rows,
        corpus=corpus.name,
        details={"traffic": by_kind, "recommendation_cuts": cuts},
    )


def _reply_bytes_per_position(parts: list[TargetRows]) -> float:
    """Of the dialogue teacher's replies alone, with their headers."""
    replies = [reply_of(codec.encode(part, UINT8)) for part in parts]
    total = sum(reply.ByteSize() + header_bytes(reply) for reply in replies)
    return total / sum(part.num_rows for part in parts)


def _json_bytes(rows: TargetRows) -> float:
    """A position as JSON servers send it: a text and a number per entry."""
    entries = dict(zip(map(str, rows.ids_E), map(float, rows.log_probs_E), strict=False))
    return len(json.dumps(entries)) / len(entries) * len(rows.ids_E) / rows.num_rows


def _seconds(blocks: list[TargetRows]) -> tuple[float, float]:
    """Median seconds to encode and to decode all of them once."""
    encoded = [codec.encode(rows, UINT8) for rows in blocks]

    def encode() -> None:
        for rows in blocks:
            codec.encode(rows, UINT8)

    def decode() -> None:
        for rows, block in zip(blocks, encoded, strict=True):
            codec.decode(block, num_rows=rows.num_rows, vocab_size=rows.vocab_size)

    return _median_s(encode), _median_s(decode)


def _median_s(call: Callable[[], None]) -> float:
    times = []
    for _ in range(NUM_TIMINGS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _gradient_rows(teacher: TeacherLogits, scored: list[DialogueLogits]) -> list[Row]:
    """One row per size, treatment of the dropped mass, and student."""
    part = scored[:NUM_GRADIENT_REQUESTS]
    logits_PV = torch.cat([each.logits_PV for each in part])
    labels_P = torch.cat([each.labels_P for each in part])
    hidden_PD = torch.cat([each.hidden_PD for each in part])
    teacher_PV = logits_PV.double().softmax(-1)
    by_name = gradients.students(logits_PV, labels_P, hidden_PD)
    rows: list[Row] = []
    for k, tail in itertools.product(SIZES, gradients.TAILS):
        cut = Compression(samples=k) if tail == "sampled" else Compression(top_k=k)
        whole = codec.concat_rows([teacher.cut(each, cut) for each in part])
        size: Row = {"k": k, "tail": tail, "kept_mass": float(1.0 - whole.tail_R.mean())}
        size["reply_bytes"] = _reply_bytes_per_position([teacher.cut(it, cut) for it in scored])
        for name, student in by_name.items():
            wanted_PV = gradients.dense_gradient(student, teacher_PV)
            got_PV = gradients.truncated_gradient(student, whole, tail)
            errors = {
                "rel_error": gradients.relative_error(got_PV, wanted_PV),
                "cosine": gradients.batch_cosine(got_PV, wanted_PV, student.hidden_PD),
                **_quantised(student, whole, tail, got_PV),
            }
            rows.append({**size, "student": name, **errors})
    return rows


def _quantised(
    student: gradients.Student, whole: TargetRows, tail: str, got_PV: Tensor
) -> dict[str, float]:
    """Relative error of the gradient from 8-bit rows against that from the same rows unquantised.

    `quantised` is of the teacher's part alone, `quantised_loss` of the loss with its gold token.
    """
    block = codec.encode(whole, UINT8)
    sent = codec.decode(block, num_rows=whole.num_rows, vocab_size=whole.vocab_size)
    sent_PV = gradients.truncated_gradient(student, sent, tail)
    gamma = DistillConfig().gamma
    return {
        "quantised": gradients.relative_error(sent_PV, got_PV),
        "quantised_loss": gradients.relative_error(
            gradients.with_gold(student, sent_PV, gamma),
            gradients.with_gold(student, got_PV, gamma),
        ),
    }
