"""The client with a cache: when it needs a Directory, a replica, or none of them."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from protos.target_rows import Targets
from tests.support.client_world import (
    FakeTeacher,
    World,
    ask,
    client_of,
    dialogue_of_two,
    examples,
    wait_for,
)
from tests.support.same_bits import assert_same_bits
from trainer.common.errors import TeacherUnavailable
from trainer.config.distill import DistillConfig
from trainer.data.model_input import RANGES

CONFIG = DistillConfig(values="float32")


def fill(world: World, folder: Path, *response_lengths: int) -> Targets:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))
    client = client_of(world, folder)
    try:
        return ask(client, *response_lengths)
    finally:
        client.close()


def assert_same_targets(received: Targets, expected: Targets) -> None:
    assert_same_bits(received["dialogue"], expected["dialogue"])
    assert_same_bits(received["recommendation"], expected["recommendation"])


def test_client_takes_from_the_cache_what_an_earlier_one_received(
    world: World, tmp_path: Path
) -> None:
    expected = fill(world, tmp_path, 2, 3)
    client = client_of(world, tmp_path)
    try:
        assert_same_targets(ask(client, 2, 3), expected)
        counters = client.counters
        assert (counters.requests, counters.positions, counters.wire_bytes) == (0, 0, 0)
        # Two answers of the dialogue teacher; the two contexts are the same to the recommender.
        assert (counters.cache_hits, counters.cache_misses) == (4, 0)
        # Of the fake's rows, the first is of id 0: so three are cached, and four were asked for.
        assert ask(client, 4, 3, 2)["dialogue"].ids_E.tolist() == [0, 1, 2, 3, 2, 3, 4, 0, 1]
        assert (counters.requests, counters.positions) == (1, 4)
        assert (counters.cache_hits, counters.cache_misses) == (9, 1)
    finally:
        client.close()


def test_client_with_everything_cached_works_without_a_directory(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fill(world, tmp_path, 2, 3)
    world.kill("directory")
    with caplog.at_level(logging.WARNING):
        client = client_of(world, tmp_path, connect_s=0.2, patience_s=1.0)
    try:
        assert "cached targets of the weights weights-dialogue are used" in caplog.text
        assert client.identity["dialogue"] == "weights-dialogue in float32 at temperature 1"
        assert client.limits["dialogue"].max_tokens == 64
        assert_same_targets(ask(client, 2, 3), expected)
        # What is not cached is waited for as long as patience lasts, and no longer.
        with pytest.raises(TeacherUnavailable, match="no dialogue teacher answered for 1 s"):
            ask(client, 4)
    finally:
        client.close()


def test_client_works_while_the_fleet_is_scaled_to_zero_and_after(
    world: World, tmp_path: Path
) -> None:
    expected = fill(world, tmp_path, 2, 3)
    for name in ("d", "r"):
        world.list_(name, None)
    client = client_of(world, tmp_path)
    try:
        assert_same_targets(ask(client, 2, 3), expected)
        pending = client.submit(examples(4))
        world.add("later", FakeTeacher("dialogue"))
        assert pending.result()["dialogue"].num_rows == 4
    finally:
        client.close()


@pytest.mark.parametrize(
    ("field", "other", "message"),
    [
        ("weights_digest", "weights-new", "weights weights-dialogue in .* got weights-new in"),
        pytest.param(
            *("dtype", "bf16", "weights-dialogue in float32 .* got weights-dialogue in bf16"),
            marks=pytest.mark.everything,
        ),
    ],
)
def test_client_puts_aside_another_teacher_than_the_caches_that_comes_later(
    field: str, other: str, message: str, world: World, tmp_path: Path
) -> None:
    fill(world, tmp_path, 2)
    for name in ("d", "r"):
        world.list_(name, None)
    client = client_of(world, tmp_path, patience_s=1.0)
    try:
        teacher = FakeTeacher("dialogue")
        setattr(teacher, field, other)
        world.add("new", teacher)
        wait_for(lambda: client.counters.quarantined == 1)
        assert ask(client, 2)["dialogue"].num_rows == 2
        with pytest.raises(TeacherUnavailable, match=f"answered for 1 s .*Put aside: .*{message}"):
            ask(client, 4)
    finally:
        client.close()


def test_client_of_a_settled_teacher_takes_that_of_several_in_the_cache(
    world: World, tmp_path: Path
) -> None:
    expected = fill(world, tmp_path, 2, 3)
    world.list_("d", None)
    world.add("new", FakeTeacher("dialogue", weights_digest="weights-new"))
    client = client_of(world, tmp_path)
    ask(client, 2)
    client.close()
    world.kill("directory")
    settled = {"dialogue": "weights-dialogue in float32 at temperature 1"}
    client = client_of(world, tmp_path, settled=settled, connect_s=0.2)
    try:
        assert client.identity["dialogue"] == settled["dialogue"]
        assert_same_targets(ask(client, 2, 3), expected)
    finally:
        client.close()


def test_client_with_a_live_teacher_of_other_weights_takes_nothing_of_the_old_one(
    world: World, tmp_path: Path
) -> None:
    fill(world, tmp_path, 2, 3)
    world.list_("d", None)
    world.add("new", FakeTeacher("dialogue", weights_digest="weights-new"))
    client = client_of(world, tmp_path)
    try:
        assert client.identity["dialogue"].startswith("weights-new")
        ask(client, 2, 3)
        assert (client.counters.cache_misses, client.counters.cache_hits) == (2, 2)
    finally:
        client.close()
    # Now nobody could tell which of the two is meant.
    world.kill("directory")
    with pytest.raises(TeacherUnavailable, match="no Directory answers"):
        client_of(world, tmp_path, connect_s=0.2)


@pytest.mark.parametrize(
    "changed",
    [
        DistillConfig(values="float16"),
        DistillConfig(values="float32", top_k=9, recommendation_top_k=9),
    ],
    ids=["values", "top_k"],
)
def test_client_that_asks_otherwise_misses_and_needs_teachers(
    changed: DistillConfig, world: World, tmp_path: Path
) -> None:
    fill(world, tmp_path, 2, 3)
    client = client_of(world, tmp_path, changed)
    try:
        ask(client, 2)
        assert client.counters.cache_hits == 0
    finally:
        client.close()
    world.kill("directory")
    client_of(world, tmp_path, changed, connect_s=0.2).close()
    unknown = DistillConfig(values="float32", top_k=8)
    with pytest.raises(TeacherUnavailable, match="no Directory answers"):
        client_of(world, tmp_path, unknown, connect_s=0.2)


def test_client_of_an_example_with_other_inputs_misses(world: World, tmp_path: Path) -> None:
    fill(world, tmp_path, 2)
    (example,) = examples(2)
    other = dataclasses.replace(example, context_ids=np.array([1, 3], np.int32))
    client = client_of(world, tmp_path)
    try:
        client.submit([other]).result()
        assert (client.counters.cache_hits, client.counters.cache_misses) == (1, 1)
    finally:
        client.close()


def ints(content: bytes) -> list[int]:
    return np.frombuffer(content, "<i4").tolist()


@pytest.mark.parametrize("capabilities", [(RANGES,), ()], ids=["ranges", "none"])
def test_client_merges_a_dialogue_for_a_teacher_that_takes_ranges(
    world: World, tmp_path: Path, capabilities: tuple[str, ...]
) -> None:
    teacher = world.add("d", FakeTeacher("dialogue", capabilities=capabilities))
    world.add("r", FakeTeacher("recommendation"))
    client = client_of(world, tmp_path)
    first, second = dialogue_of_two()
    try:
        received = client.submit([first, second]).result()["dialogue"]
    finally:
        client.close()
    assert received.num_rows == 5
    (request,) = teacher.asked
    assert ints(request.range_lengths) == [2, 3]
    if capabilities:
        assert ints(request.token_ids) == [1, 2, 0, 1, 7, 0, 1]
        assert (ints(request.range_counts), ints(request.range_starts)) == ([2], [1, 4])
    else:
        assert ints(request.token_lengths) == [3, 7]
        assert (ints(request.range_counts), ints(request.range_starts)) == ([1, 1], [1, 4])


def test_client_asks_for_the_ranges_alone_that_are_not_cached(world: World, tmp_path: Path) -> None:
    teacher = world.add("d", FakeTeacher("dialogue", capabilities=(RANGES,)))
    world.add("r", FakeTeacher("recommendation"))
    client = client_of(world, tmp_path)
    first, second = dialogue_of_two()
    try:
        alone = client.submit([first]).result()["dialogue"]
        both = client.submit([first, second]).result()["dialogue"]
        assert_same_bits(both.split([2, 3])[0], alone)
        # The two contexts are the same to the recommender.
        assert (client.counters.cache_hits, client.counters.cache_misses) == (3, 3)
        assert (client.counters.teacher_tokens, client.counters.positions) == (3 + 7, 5)
    finally:
        client.close()
    whole = [ints(request.range_starts) for request in teacher.asked]
    assert whole == [[1], [4]]
