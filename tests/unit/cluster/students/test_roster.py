"""Which nodes a run takes, with a cluster that is a list."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from cluster.students import roster as rostered
from cluster.students.node import Place
from cluster.students.node_set import Group
from cluster.students.order import RunOrder
from cluster.students.roster import SETTLE_S, Roster
from cluster.students.run_files import RunState
from cluster.students.supervisor import first_state
from trainer.common.errors import InputError, MachineError
from trainer.config.run import RunConfig, TrainConfig

CONFIG = RunConfig(data="d", output="o", train=TrainConfig(batch_size=32))
ORDER = RunOrder(
    name="run",
    id="1",
    folder="/shared/runs/run",
    config="given.yaml",
    overrides=(),
    nodes=4,
    min_nodes=1,
    slots=1,
    wait_s=600.0,
)


class World:
    """A cluster and a clock: each look at the nodes is a second later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: str) -> None:
        self.nodes = [*nodes]
        self.now_s = 0.0
        self.said: list[str] = []
        self.devices = 0
        monkeypatch.setattr(rostered, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(rostered.time, "sleep", self.pass_time)
        monkeypatch.setattr(rostered, "free_nodes", lambda lost: sorted({*self.nodes} - lost))
        monkeypatch.setattr(rostered, "gather", self.group)

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    def group(self, nodes: list[str], name: str) -> Group:
        nothing: Any = None
        places = tuple(
            Place(node_id=node, host=node, address=node, port=1, devices=self.devices)
            for node in nodes
        )
        return Group(placement=nothing, actors=(None,) * len(nodes), places=places)

    def gathered(self, roster: Roster, *, is_first: bool) -> list[str]:
        group = roster.gather(is_first=is_first, is_over=lambda: False, on_wait=self.said.append)
        assert group is not None
        return [place.node_id for place in group.places]


def test_run_waits_for_all_its_nodes_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, "a", "b", "c")
    roster = Roster(ORDER, CONFIG, name="n")

    def come(text: str) -> None:
        world.said.append(text)
        world.nodes.append("d")

    group = roster.gather(is_first=True, is_over=lambda: False, on_wait=come)
    assert group is not None and len(group.places) == 4
    assert world.said == ["waiting for student nodes: 3 of 4 are free"]


def test_run_goes_on_with_what_is_left_soon_after_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, "a", "b", "c", "d")
    roster = Roster(ORDER, CONFIG, name="n")
    roster.lose(["b"])
    assert world.gathered(roster, is_first=False) == ["a", "c", "d"]
    assert SETTLE_S <= world.now_s <= SETTLE_S + 2


def test_node_that_is_lost_is_not_taken_until_ray_must_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, "a", "b")
    roster = Roster(replace(ORDER, nodes=2), CONFIG, name="n")
    roster.lose(["b"])
    assert world.gathered(roster, is_first=False) == ["a"]
    world.now_s += rostered.FORGET_S
    assert world.gathered(roster, is_first=False) == ["a", "b"]


def test_too_few_nodes_are_an_error_once_the_wait_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, "a")
    roster = Roster(replace(ORDER, min_nodes=2), CONFIG, name="n")
    with pytest.raises(MachineError, match="must have 2 student nodes, got 1 free ones for 600 s"):
        world.gathered(roster, is_first=False)


def test_run_that_is_stopped_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch)
    roster = Roster(ORDER, CONFIG, name="n")
    assert roster.gather(is_first=True, is_over=lambda: True, on_wait=print) is None


def test_nodes_beyond_the_largest_fit_are_in_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    roster = Roster(ORDER, CONFIG, name="n")
    assert roster.sizes(world.group(["a", "b", "c"], "n")) == (1, 2)


def test_ranks_of_a_node_are_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    roster = Roster(replace(ORDER, slots=0), CONFIG, name="n")
    assert roster.sizes(world.group(["a"], "n")) == (1, 1)
    world.devices = 8
    assert roster.sizes(world.group(["a", "b"], "n")) == (8, 2)
    uneven = world.group(["a"], "n").places + replace_devices(world, 4)
    with pytest.raises(InputError, match="as many GPUs each"):
        roster.sizes(replace(world.group([], "n"), places=uneven))


def replace_devices(world: World, devices: int) -> tuple[Place, ...]:
    return tuple(replace(place, devices=devices) for place in world.group(["z"], "n").places)


def test_run_grows_at_a_checkpoint_made_since_more_nodes_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    roster = Roster(ORDER, CONFIG, name="n")
    group = world.group(["a", "b"], "n")
    steps: list[bool] = []

    class Looks(threading.Event):
        """Ends after as many looks; one more node is free at each."""

        def wait(self, timeout: float | None = None) -> bool:
            # 32 examples are shared by 2 ranks and by 4, not by 3.
            steps.append(roster.can_grow(checkpoint=41))
            world.nodes.append(f"new{len(steps)}")
            return len(steps) > 3

    roster.watch(group, ended=Looks(), checkpoint=lambda: 40)
    assert steps == [False, False, True, True]
    assert not roster.can_grow(checkpoint=40)


STATE = RunState(run="run", id="1", epoch=4, state="running", attempt=3, nodes=("a",), ranks=1)


def test_supervisor_of_the_same_run_goes_on_and_one_of_a_new_run_begins() -> None:
    same = first_state(ORDER, STATE)
    assert (same.epoch, same.attempt, same.nodes) == (5, 3, ())
    new = first_state(replace(ORDER, id="2"), STATE)
    assert (new.epoch, new.attempt, new.wanted_nodes) == (5, 0, 4)
    assert first_state(ORDER, None).epoch == 1
