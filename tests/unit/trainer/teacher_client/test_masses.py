"""A teacher that cannot give what the gates read is refused before anything is asked of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import Description
from tests.support.client_world import FakeTeacher, World
from trainer.teacher_client.masses import check_masses


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.mark.parametrize("masses", [(ITEM_MASS,), ("person_mass", ITEM_MASS)])
def test_teacher_that_gives_the_mass_is_taken(masses: tuple[str, ...]) -> None:
    check_masses(Description(kind="dialogue", masses=masses), "at a:1")


@pytest.mark.parametrize(("masses", "given"), [((), "none"), (("person_mass",), "person_mass")])
def test_teacher_without_the_mass_is_refused_with_those_that_it_gives(
    masses: tuple[str, ...], given: str
) -> None:
    with pytest.raises(
        ValueError,
        match=f"the dialogue teacher at a:1 must give the mass item_mass, .* got {given}\\. Serve",
    ):
        check_masses(Description(kind="dialogue", masses=masses), "at a:1")


def test_client_refuses_it_at_the_start_and_asks_for_nothing(world: World) -> None:
    dialogue = world.add("dialogue-1", FakeTeacher("dialogue", masses=()))
    world.add("recommendation-1", FakeTeacher("recommendation"))
    with pytest.raises(ValueError, match="must give the mass item_mass"):
        world.client()
    assert dialogue.requests == 0


def test_teacher_of_other_data_is_refused_for_that_before_a_mass_that_it_lacks(
    world: World,
) -> None:
    world.add("d", FakeTeacher("dialogue", masses=(), vocabulary_digest="vocabulary-b"))
    world.add("r", FakeTeacher("recommendation"))
    with pytest.raises(ValueError, match=r"student's vocabulary vocabulary-a .* got vocabulary-b"):
        world.client()
