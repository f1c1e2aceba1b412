"""What does a replica add to its forward passes? Throughput, latency and fairness of the service.

Scoring is replaced by replay of what the fitted dialogue teacher answered: recorded blocks, and
recorded rows, which are encoded. A bare grpc.aio handler with the same messages is the yardstick;
its runs and ours alternate. What compression and encoding cost is held against the forward pass of
a dialogue teacher of DialoGPT-small's shape, 12 layers and 768 wide.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psutil
import torch

from cluster.bench.corpus import Corpus, fitted_corpus, requests
from cluster.bench.result import BenchResult, Row
from cluster.bench.service.load import Load, LoadResult, abandon, send_load
from cluster.bench.service.replay import Recording, serving
from cluster.bench.teacher_logits import TeacherLogits
from protos import codec, teacher_pb2
from protos.teacher_pb2 import Compression
from teacher_server.scoring.teachers import DialogueTeacher
from trainer.common.machine import num_cpus
from trainer.data.model_input import (
    InputLimits,
    SequenceInput,
    dialogue_input,
    merge_sequences,
)
from trainer.data.vocabulary import Vocabulary
from trainer.plan.shape import SHAPES
from trainer.teacher_client.answers import fields_of

CUT = Compression(top_k=64)
NUM_RECORDED = 20
NUM_PAIRS = 15
# Sixteen students, each a few batches ahead: the service never waits for one. Turns of a
# second or two: start and end, with windows that are not full, must not weigh much.
THROUGHPUT = Load(num_streams=16, window=32, num_requests=24_000)
ENCODING = Load(num_streams=16, window=32, num_requests=1600)
FAIRNESS = Load(num_streams=64, window=2, seconds=8.0)
LATENCY = Load(num_streams=1, window=1, num_requests=2000)
# Students connect, send and leave, 5,000 requests at a time; some leave before their answers.
VISIT = Load(num_streams=16, window=8, num_requests=5_000)
NUM_VISITS = 20
WARM_UP = Load(num_streams=4, window=8, num_requests=5_000)


def bench_service(source: Path | None) -> BenchResult:
    """Run the arms; medians over pairs."""
    torch.set_num_threads(1)
    corpus = fitted_corpus(source)
    recording = record(corpus)
    rows, ratios = _throughput(recording)
    latency, fairness = _under_load(recording)
    costs = _costs(corpus)
    # Of an exchange of replayed blocks: all that is ours of it, and gRPC's own.
    send_s = 1.0 / statistics.median(float(row["blocks_per_s"]) for row in rows)
    return BenchResult(
        figures={
            "throughput_to_bare_grpc": statistics.median(ratios["blocks"]),
            "throughput_to_bare_grpc_encoding": statistics.median(ratios["rows"]),
            "throughput_to_bare_grpc_small_rounds": statistics.median(ratios["small"]),
            "overhead_to_forward": (costs["compress_s"] + costs["encode_s"] + send_s)
            / costs["forward_s"],
            **costs,
            "send_s": send_s,
            "fairness": min(fairness.per_stream) / max(fairness.per_stream),
            "latency_p50_ms": 1e3 * statistics.median(latency.latencies_s),
            "latency_p99_ms": 1e3 * statistics.quantiles(latency.latencies_s, n=100)[98],
            **_memory(recording),
            "bytes_per_exchange": recording.bytes_per_exchange,
        },
        rows=rows,
        corpus=corpus.name,
    )


def record(corpus: Corpus) -> Recording:
    """What the dialogue teacher answers to the first valid requests."""
    teacher = DialogueTeacher.load(corpus.dialogue, torch.device("cpu"))
    limits = InputLimits.of(teacher.description)
    sent, replies = [], []
    for number, part in enumerate(requests(corpus.examples("valid"))[:NUM_RECORDED]):
        inputs = merge_sequences([dialogue_input(example, limits) for example in part])
        request = _request(number, inputs, limits)
        block = codec.encode(teacher.score(inputs, CUT), codec.UINT8)
        reply = teacher_pb2.ScoreReply(request_id=number, block=block)
        sent.append(request.SerializeToString())
        replies.append(reply.SerializeToString())
    return Recording(description=teacher.description, requests=tuple(sent), replies=tuple(replies))


def _request(
    number: int, inputs: list[SequenceInput], limits: InputLimits
) -> teacher_pb2.ScoreRequest:
    return teacher_pb2.ScoreRequest(
        request_id=number,
        compression=teacher_pb2.Compression(top_k=CUT.top_k, values=teacher_pb2.UINT8),
        **fields_of(inputs, limits),
    )


def _throughput(recording: Recording) -> tuple[list[Row], dict[str, list[float]]]:
    """Every arm in turn, several times: the machine's speed drifts, ratios of a turn do not."""
    rows: list[Row] = []
    ratios: dict[str, list[float]] = {"blocks": [], "rows": [], "small": []}
    with (
        serving("bare", recording) as (bare, _),
        serving("blocks", recording) as (blocks, _),
        serving("rows", recording) as (encoding, _),
        serving("small", recording) as (small, _),
    ):
        for address in (bare, blocks, encoding, small):
            send_load(address, recording, WARM_UP)
        for pair in range(NUM_PAIRS):
            turn = [
                ("bare", bare, THROUGHPUT),
                ("blocks", blocks, THROUGHPUT),
                ("rows", encoding, ENCODING),
                ("small", small, ENCODING),
            ]
            # None always comes after the same one.
            speed = {
                arm: send_load(address, recording, load).exchanges_per_s
                for arm, address, load in (reversed(turn) if pair % 2 else turn)
            }
            for arm, of_arm in ratios.items():
                of_arm.append(speed[arm] / speed["bare"])
            rows.append(
                {
                    "pair": pair,
                    "bare_per_s": speed["bare"],
                    "blocks_per_s": speed["blocks"],
                    "rows_per_s": speed["rows"],
                    "small_per_s": speed["small"],
                    "bare_mb_per_s": speed["bare"] * recording.bytes_per_exchange / 1e6,
                    "blocks_mb_per_s": speed["blocks"] * recording.bytes_per_exchange / 1e6,
                }
            )
    return rows, ratios


def _under_load(recording: Recording) -> tuple[LoadResult, LoadResult]:
    """Latency of one student alone, and the shares of 64."""
    with serving("rows", recording) as (address, _):
        send_load(address, recording, WARM_UP)
        return send_load(address, recording, LATENCY), send_load(address, recording, FAIRNESS)


def _memory(recording: Recording) -> dict[str, float]:
    """What 100,000 requests leave behind in a replica that encodes; in MB of its resident set."""
    with serving("rows", recording) as (address, pid):
        replica = psutil.Process(pid)
        resident_mb = []
        # What the first visit grows by are the threads and buffers that are there for good.
        for _ in range(1 + NUM_VISITS):
            send_load(address, recording, VISIT)
            abandon(address, recording, VISIT)
            resident_mb.append(replica.memory_info().rss / 1e6)
    return {
        "memory_mb": resident_mb[-1],
        "memory_growth_mb_per_100k": resident_mb[-1] - resident_mb[0],
        "memory_growth_mb_last_50k": resident_mb[-1] - resident_mb[NUM_VISITS // 2],
    }


def _costs(corpus: Corpus) -> dict[str, float]:
    """Seconds for one request: forward pass of 12 layers x 768, cut, and encoding."""
    torch.set_num_threads(min(psutil.cpu_count(logical=False) or 1, num_cpus()))
    part = requests(corpus.examples("valid"))[0]
    teacher = TeacherLogits.random(Vocabulary.load(corpus.dialogue), SHAPES["small"])
    times: dict[str, list[float]] = {"forward_s": [], "compress_s": [], "encode_s": []}
    for _ in range(3):
        start = time.perf_counter()
        scored = teacher.score(part)
        times["forward_s"].append(time.perf_counter() - start)
        start = time.perf_counter()
        rows = teacher.cut(scored, CUT)
        times["compress_s"].append(time.perf_counter() - start)
        start = time.perf_counter()
        codec.encode(rows, codec.UINT8)
        times["encode_s"].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
