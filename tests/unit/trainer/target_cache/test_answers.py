"""Answers from the cache and from teachers, taken apart by example and put together again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from protos import codec, teacher_pb2
from protos.codec import TargetRows
from protos.teacher_pb2 import Compression
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.teachers import DialogueTeacher, RecommendationTeacher
from tests.support.caches import corrupt
from tests.support.same_bits import assert_same_bits
from tests.support.tiny_teachers import (
    NUM_ENTITIES,
    tiny_vocabulary,
    write_dialogue_teacher,
    write_recommendation_teacher,
)
from trainer.data.model_input import ONE_ROW, SequenceInput
from trainer.target_cache.answers import CachedAnswers
from trainer.target_cache.block import pack
from trainer.target_cache.keys import Group, RequestKeys
from trainer.target_cache.store import TargetCache
from trainer.telemetry.client_counters import ClientCounters

NUM_EXAMPLES = 12
KINDS = ("dialogue", "recommendation")
TOP_K = 16


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Teacher]:
    folder = tmp_path_factory.mktemp("teachers")
    vocabulary = tiny_vocabulary()
    write_dialogue_teacher(folder / "dialogue", vocabulary)
    write_recommendation_teacher(folder / "recommendation", vocabulary)
    device = torch.device("cpu")
    return {
        "dialogue": DialogueTeacher.load(folder / "dialogue", device),
        "recommendation": RecommendationTeacher.load(folder / "recommendation", device),
    }


def inputs_of(kind: str) -> list[SequenceInput]:
    rng = np.random.default_rng(1)
    inputs = []
    for number in range(NUM_EXAMPLES):
        if kind == "dialogue":
            tokens = rng.integers(0, 60, size=8 + number).astype(np.int32)
            inputs.append(SequenceInput.at_end(num_rows=1 + number % 5, tokens=tokens))
        else:
            entities = rng.choice(NUM_ENTITIES, size=1 + number % 4, replace=False)
            inputs.append(SequenceInput(ranges=ONE_ROW, entities=entities.astype(np.int32)))
    return inputs


class Asked:
    """The teachers in this process, through the wire's bytes: what a served student is given."""

    def __init__(self, teacher: Teacher, values: int) -> None:
        asked = teacher_pb2.Compression(top_k=TOP_K, values=values)  # type: ignore[arg-type]
        self.request = RequestKeys(Group.of(teacher.description, asked))
        self.batches: list[int] = []
        self.given: list[TargetRows] = []
        self._teacher = teacher

    async def __call__(self, inputs: Sequence[SequenceInput]) -> TargetRows:
        self.batches.append(len(inputs))
        rows = self._teacher.score(inputs, Compression(top_k=TOP_K))
        block = codec.encode(rows, self.request.group.compression.values)
        vocab_size = self._teacher.description.vocab_size
        self.given.append(codec.decode(block, num_rows=rows.num_rows, vocab_size=vocab_size))
        return self.given[-1]


class Desk:
    """Cached answers in a folder, asked from a test."""

    def __init__(
        self, folder: Path, max_bytes: int = 1 << 26, *, waits_for_room: bool = False
    ) -> None:
        self.counters = ClientCounters()
        self.cache = TargetCache(folder, max_bytes=max_bytes)
        self.answers = CachedAnswers(self.cache, self.counters, waits_for_room=waits_for_room)

    def ask(self, asked: Asked, *batches: Sequence[SequenceInput]) -> list[TargetRows]:
        """The answers to batches that are all asked for at once."""

        async def answers() -> list[TargetRows]:
            pending = [self.answers.answer(asked.request, batch, asked) for batch in batches]
            return await asyncio.gather(*pending)

        return asyncio.run(answers())

    def close(self) -> None:
        self.answers.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "cache")
    yield desk
    desk.close()


def one_by_one(rows: TargetRows, inputs: Sequence[SequenceInput]) -> list[list[tuple[object, ...]]]:
    """Every row of every example by itself, floats as bytes."""
    examples, row, entry = [], 0, 0
    for each in inputs:
        examples.append([])
        for _ in range(each.num_rows):
            end = entry + int(rows.counts_R[row])
            ids, log_probs_E = rows.ids_E[entry:end].tolist(), rows.log_probs_E[entry:end]
            masses = rows.tail_R[row].tobytes(), rows.item_mass_R[row].tobytes()
            examples[-1].append((ids, log_probs_E.tobytes(), *masses))
            row, entry = row + 1, end
    return examples


@pytest.mark.parametrize("values", [codec.FLOAT32, codec.FLOAT16, codec.UINT8])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_rows_are_those_of_in_process_scoring_through_the_wire_bit_for_bit(
    kind: str, values: int, teachers: dict[str, Teacher], desk: Desk
) -> None:
    asked, inputs = Asked(teachers[kind], values), inputs_of(kind)
    (first,) = desk.ask(asked, inputs)
    assert_same_bits(first, asked.given[0])
    (second,) = desk.ask(asked, inputs)
    assert_same_bits(second, asked.given[0])
    # Other batches in another order: by example the same rows.
    order = [int(index) for index in np.random.default_rng(2).permutation(NUM_EXAMPLES)]
    shuffled = [inputs[index] for index in order]
    third = codec.concat_rows(desk.ask(asked, shuffled[:5], shuffled[5:]))
    by_example = one_by_one(first, inputs)
    assert one_by_one(third, shuffled) == [by_example[index] for index in order]
    assert asked.batches == [NUM_EXAMPLES]
    counters = desk.counters
    assert (counters.cache_hits, counters.cache_misses) == (2 * NUM_EXAMPLES, NUM_EXAMPLES)
    assert counters.cache_read_bytes == 2 * counters.cache_written_bytes > 0
    assert counters.cache_broken == counters.cache_unwritten == 0


def test_batch_that_is_partly_known_asks_only_for_the_rest(
    teachers: dict[str, Teacher], desk: Desk
) -> None:
    asked, inputs = Asked(teachers["dialogue"], codec.FLOAT32), inputs_of("dialogue")
    desk.ask(asked, inputs[2:5])
    (rows,) = desk.ask(asked, inputs[:7])
    assert asked.batches == [3, 4]
    whole = Asked(teachers["dialogue"], codec.FLOAT32)
    expected = asyncio.run(whole(inputs[:7]))
    assert rows.ids_E.tolist() == expected.ids_E.tolist()
    assert rows.log_probs_E == pytest.approx(expected.log_probs_E, abs=1e-5)


def test_example_that_is_twice_in_a_batch_is_asked_for_once(
    teachers: dict[str, Teacher], desk: Desk
) -> None:
    asked, inputs = Asked(teachers["recommendation"], codec.UINT8), inputs_of("recommendation")
    (rows,) = desk.ask(asked, [inputs[0], inputs[1], inputs[0]])
    assert asked.batches == [2]
    assert rows.tail_R[0] == rows.tail_R[2] != rows.tail_R[1]


def test_batches_that_ask_the_same_at_once_are_given_the_same_rows(
    teachers: dict[str, Teacher], desk: Desk
) -> None:
    # In another batch a teacher may round otherwise: the rows written first are handed out.
    asked, inputs = Asked(teachers["dialogue"], codec.FLOAT32), inputs_of("dialogue")
    first, second = desk.ask(asked, inputs, inputs[:1])
    assert sorted(asked.batches) == [1, NUM_EXAMPLES]
    assert second.log_probs_E.tobytes() == first.log_probs_E[: len(second.log_probs_E)].tobytes()
    (later,) = desk.ask(asked, inputs)
    assert_same_bits(later, first)


def test_corrupted_value_is_asked_for_anew_counted_and_replaced(
    teachers: dict[str, Teacher], desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    asked, inputs = Asked(teachers["dialogue"], codec.UINT8), inputs_of("dialogue")
    (first,) = desk.ask(asked, inputs[:4])
    key = asked.request.key(inputs[1])
    corrupt(desk.cache, key)
    with caplog.at_level(logging.WARNING):
        (second,) = desk.ask(asked, inputs[:4])
    assert "asked for anew" in caplog.text
    assert asked.batches == [4, 1]
    assert (desk.counters.cache_broken, desk.counters.cache_hits) == (1, 3)
    assert second.ids_E.tolist() == first.ids_E.tolist()
    desk.ask(asked, inputs[:4])
    assert asked.batches == [4, 1]


def num_entries(cache: TargetCache) -> int:
    with cache.snapshot() as now:
        return now.num_entries


def test_full_cache_goes_on_with_the_teachers_and_counts_what_is_not_kept(
    teachers: dict[str, Teacher], tmp_path: Path
) -> None:
    asked, inputs = Asked(teachers["dialogue"], codec.UINT8), inputs_of("dialogue")
    desk = Desk(tmp_path / "cache", max_bytes=1 << 15)
    for _ in range(2):
        (rows,) = desk.ask(asked, inputs)
        assert_same_bits(rows, asked.given[-1])
    desk.close()
    assert asked.batches == [NUM_EXAMPLES, NUM_EXAMPLES]
    assert desk.counters.cache_unwritten == 2 * NUM_EXAMPLES
    assert desk.counters.cache_written_bytes == 0


@pytest.mark.parametrize("waits", [False, True], ids=["a run", "a build"])
def test_queue_of_writing_is_bounded_in_bytes(
    waits: bool, teachers: dict[str, Teacher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.target_cache.answers.MAX_QUEUED_BYTES", 100)
    writing, may_write = threading.Event(), threading.Event()

    def pack_later(key: bytes, rows: TargetRows, values: int) -> bytes:
        writing.set()
        assert may_write.wait(20)
        return pack(key, rows, values)

    monkeypatch.setattr("trainer.target_cache.answers.pack", pack_later)
    asked, inputs = Asked(teachers["dialogue"], codec.UINT8), inputs_of("dialogue")
    desk = Desk(tmp_path / "cache", waits_for_room=waits)

    async def story() -> list[TargetRows]:
        def ask(part: Sequence[SequenceInput]) -> asyncio.Task[TargetRows]:
            return asyncio.create_task(desk.answers.answer(asked.request, part, asked))

        # One batch alone may be larger than the bound; the next one finds no room.
        first = ask(inputs[:4])
        await asyncio.to_thread(writing.wait, 20)
        second = ask(inputs[4:6])
        done, _ = await asyncio.wait([second], timeout=0.5 if waits else 20)
        assert bool(done) is not waits
        may_write.set()
        return [await first, await second]

    rows = asyncio.run(story())
    desk.close()
    for mine, given in zip(rows, asked.given, strict=True):
        assert_same_bits(mine, given)
    assert desk.counters.cache_unwritten == (0 if waits else 2)


def test_rows_that_cannot_be_packed_are_handed_out_unkept(
    teachers: dict[str, Teacher], desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise ValueError("not these")

    monkeypatch.setattr("trainer.target_cache.answers.pack", refuse)
    asked, inputs = Asked(teachers["dialogue"], codec.UINT8), inputs_of("dialogue")
    (rows,) = desk.ask(asked, inputs)
    assert_same_bits(rows, asked.given[0])
    assert desk.counters.cache_unwritten == NUM_EXAMPLES


def test_error_of_the_teachers_reaches_who_asked_and_nothing_is_kept(
    teachers: dict[str, Teacher], desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, inputs = Asked(teachers["dialogue"], codec.UINT8), inputs_of("dialogue")

    def fail(*_: object) -> TargetRows:
        raise ValueError("the replica refused it")

    monkeypatch.setattr(asked, "_teacher", SimpleNamespace(score=fail))
    with pytest.raises(ValueError, match="the replica refused it"):
        desk.ask(asked, inputs)
    assert num_entries(desk.cache) == 0
