"""What the wire benchmark counts is what a real client sends and gets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cluster.bench.wire.metered_fleet import Exchange, ask_metered, header_bytes
from cluster.bench.wire.traffic import bytes_per_position, load_teachers, traffic_rows
from protos import teacher_pb2
from tests.support import tiny_teachers
from tests.support.thread_fleet import served
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.teacher_client.client import TeacherClient

SOFT = DistillConfig(gate="soft", top_k=8)


def dialogue(number: int) -> list[Example]:
    """Three responses of one dialogue, each context beginning with the input before."""
    rng = np.random.default_rng(number)
    tokens = rng.integers(0, 40, 30).astype(np.int32)
    first = Example(
        example_id="",
        context_ids=tokens[:4],
        response_ids=tokens[4:9],
        context_entities=rng.integers(0, tiny_teachers.NUM_ENTITIES, 3).astype(np.int32),
        context_words=rng.integers(0, tiny_teachers.NUM_WORDS, 2).astype(np.int32),
        gold_items=np.empty(0, np.int32),
    )
    return [
        dataclasses.replace(
            first, context_ids=tokens[:start], response_ids=tokens[start : start + 5]
        )
        for start in (4, 12, 20)
    ]


MICRO_BATCHES = [[*dialogue(0), *dialogue(1)], dialogue(2)]
POSITIONS = 45


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, vocabulary = tmp_path_factory.mktemp("teachers"), tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_dialogue_teacher(root / "dialogue", vocabulary)
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary)
    return {kind: root / kind for kind in ("dialogue", "recommendation")}


def test_metered_bytes_are_those_that_a_real_client_counts(folders: dict[str, Path]) -> None:
    vocabulary = tiny_teachers.tiny_vocabulary()
    _, exchanges = ask_metered(
        MICRO_BATCHES, load_teachers(folders), distill=SOFT, vocabulary=vocabulary
    )
    with served(folders) as address:
        client = TeacherClient(
            TeachersConfig(directory=address),
            SOFT,
            vocabulary=vocabulary,
            graph_digest="tiny-graph",
        )
        for examples in MICRO_BATCHES:
            client.submit(examples).result(60)
        client.close()
    counters = client.counters
    assert len(exchanges) == counters.requests == 4
    assert sum(it.request_bytes for it in exchanges) == counters.request_bytes
    # In the middle of a long run an id takes three bytes, here one.
    assert sum(it.reply_bytes - 2 for it in exchanges) == counters.wire_bytes
    rows = {row["kind"]: row["rows"] for row in traffic_rows(exchanges, POSITIONS)}
    assert rows == {"dialogue": counters.positions, "recommendation": 9}
    assert counters.positions == POSITIONS


def test_bytes_per_position_is_the_sum_of_its_parts() -> None:
    exchanges = [
        Exchange(kind=kind, num_rows=1, request_bytes=10, reply_bytes=size, header_bytes=28)
        for kind, size in (("dialogue", 100), ("recommendation", 300), ("dialogue", 200))
    ]
    assert bytes_per_position(exchanges, positions=10) == {
        "bytes_per_position": 71.4,
        "bytes_per_position_requests": 3.0,
        "bytes_per_position_dialogue": 30.0,
        "bytes_per_position_recommendation": 30.0,
        "bytes_per_position_headers": 8.4,
    }
    by_kind = traffic_rows(exchanges, positions=10)
    sums = [sum(float(v) for k, v in row.items() if k.endswith("_position")) for row in by_kind]
    assert sums == pytest.approx([37.6, 33.8])


def test_headers_are_grpcs_prefix_and_a_header_for_each_http2_frame() -> None:
    small = teacher_pb2.ScoreReply(request_id=1, block=b"x" * 100)
    large = teacher_pb2.ScoreReply(request_id=1, block=b"x" * 40_000)
    assert (header_bytes(small), header_bytes(large)) == (5 + 9, 5 + 3 * 9)
