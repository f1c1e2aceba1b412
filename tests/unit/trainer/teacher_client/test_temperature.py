"""The client at temperatures: what it asks, what it takes, and where it keeps it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protos import codec
from protos.codec import WireError
from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import UINT8, Compression
from teacher_server.scoring.compress import Support, compress
from tests.support.caches import compression, described
from tests.support.client_world import FakeTeacher, World, client_of, examples
from trainer.config.distill import DistillConfig
from trainer.config.schedule import Schedule
from trainer.target_cache.inspect import _summary
from trainer.target_cache.keys import Group
from trainer.target_cache.store import TargetCache
from trainer.teacher_client.expected_rows import ExpectedRows

V, ITEMS = 40, range(30, 37)
ANY = (0.5, 4.0)


def distill(**settings: Any) -> DistillConfig:
    return DistillConfig(values="float32", **settings)


def test_requests_carry_the_temperature_of_their_call(world: World) -> None:
    teachers = [
        world.add(it[0], FakeTeacher(it, temperatures=ANY)) for it in ("dialogue", "recommendation")
    ]
    client = world.client(distill(temperature=2.0))
    try:
        for temperature in (2.0, 1.0, 3.5):
            client.submit(examples(2, 3), temperature).result()
    finally:
        client.close()
    for teacher in teachers:
        # 1 is what a request without a temperature means.
        assert [it.temperature for it in teacher.asked] == [2.0, 0.0, 3.5]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"temperature": 5.0}, "got 5. Set it within"),
        ({"temperature": 0.4}, "got 0.4. Set it within"),
        (
            {
                "temperature": 1.0,
                "temperature_schedule": Schedule(form="linear", to=6.0, steps=9),
            },
            "got 1 to 6. Set it within",
        ),
    ],
)
def test_temperature_that_a_teacher_does_not_take_is_refused_before_any_request(
    world: World, settings: dict[str, Any], wanted: str
) -> None:
    teacher = world.add("d", FakeTeacher("dialogue", temperatures=ANY))
    world.add("r", FakeTeacher("recommendation", temperatures=ANY))
    rule = r"distill.temperature must be in \[0.5, 4\] for the \w+ teacher at 127.0.0.1:\d+, "
    with pytest.raises(ValueError, match=rule + wanted):
        world.client(distill(**settings))
    assert not teacher.asked


def test_teacher_that_names_no_range_is_asked_at_1_alone(world: World) -> None:
    world.add("d", FakeTeacher("dialogue"))
    world.add("r", FakeTeacher("recommendation"))
    world.client(distill()).close()
    with pytest.raises(ValueError, match=r"distill.temperature must be in \[1, 1\] for the"):
        world.client(distill(temperature=2.0))


def test_cached_targets_of_another_temperature_are_not_used(world: World, tmp_path: Path) -> None:
    dialogue = world.add("d", FakeTeacher("dialogue", temperatures=ANY))
    world.add("r", FakeTeacher("recommendation", temperatures=ANY))
    for temperature, asked in ((2.0, 1), (2.0, 1), (3.0, 2), (1.0, 3), (2.0, 3)):
        client = client_of(world, tmp_path, distill(temperature=temperature))
        try:
            client.submit(examples(2, 3), temperature).result()
        finally:
            client.close()
        assert len(dialogue.asked) == asked
    # And without a fleet each run finds the targets of its own temperature.
    world.kill("directory")
    client = client_of(world, tmp_path, distill(temperature=3.0), connect_s=0.2)
    try:
        assert client.submit(examples(2, 3), 3.0).result()["dialogue"].num_rows == 5
    finally:
        client.close()


def test_group_has_its_temperature_in_digest_and_record(tmp_path: Path) -> None:
    plain, warm, other = (
        Group.of(described(), compression(), temperature=it) for it in (1.0, 2.0, 2.0000002)
    )
    assert len({it.digest for it in (plain, warm, other)}) == 3
    again = Group.from_json(warm.to_json(), warm.group_id)
    assert (again.temperature, again.digest) == (2.0, warm.digest)
    assert (
        'temperature": 2.0' in warm.to_json()
        and plain.digest == Group.of(described(), compression()).digest
    )
    assert _summary(warm).cut.endswith("uint8 at temperature 2")
    assert _summary(plain).cut.endswith("uint8")
    cache = TargetCache(tmp_path / "cache", max_bytes=1 << 20)
    try:
        for number, group in enumerate((plain, warm)):
            cache.put(group, {bytes([number]): b"1"}, {})
        asked = {"vocabulary": "vocabulary-a", "graph": "graph-a"}
        for temperature in (1.0, 2.0):
            (found,) = cache.known("dialogue", compression(), temperature=temperature, **asked)
            assert found.temperature == temperature
        assert cache.known("dialogue", compression(), temperature=3.0, **asked) == []
    finally:
        cache.close()


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
def test_answer_at_a_temperature_is_held_against_it(temperature: float) -> None:
    logits_TV = 3.0 * torch.randn(20, V, generator=torch.Generator().manual_seed(1))
    expected = ExpectedRows(
        compression=compression(top_k=6, top_p=0.0, values=UINT8),
        vocab_size=V,
        support=range(V),
        items=ITEMS,
    )
    rows = compress(
        logits_TV,
        Compression(top_k=6),
        support=Support(vocab_size=V, first_id=0, first_item_column=30, num_items=7),
        asked_T=np.full(20, temperature),
    )
    got = expected.decode(codec.encode(rows, UINT8), 20, temperature)
    np.testing.assert_array_equal(got.item_mass_R, rows.item_mass_R)
    # The largest and the least mass of any row in the place of the other: one of both is wrong.
    order = rows.item_mass_R.argsort()
    mass_R = rows.item_mass_R.copy()
    mass_R[order[[0, -1]]] = mass_R[order[[-1, 0]]]
    swapped = dataclasses.replace(rows, masses={ITEM_MASS: mass_R})
    with pytest.raises(WireError, match=r"item mass of a row must be in \["):
        expected.decode(codec.encode(swapped, UINT8), 20, temperature)
