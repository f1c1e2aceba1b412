"""Whether replicas fit a local cluster, before anything is started."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest

from teacher_server.fleet import up
from teacher_server.fleet.options import parse, parse_gpus
from teacher_server.fleet.room import (
    ReplicaNeed,
    Room,
    check_memory,
    check_room,
    fits_one_more,
    gpu_share,
    num_devices,
    weights_in,
    without_place,
)
from teacher_server.fleet.scaling import ReplicaRange
from teacher_server.main import main
from teacher_server.scoring.kinds import SERVED_KINDS
from tests.support import tiny_teachers
from trainer.common.errors import InputError
from trainer.models.frozen import WEIGHTS_NAME


def check(room: Room, need: ReplicaNeed, *counts: int) -> None:
    ranges = {str(kind): ReplicaRange(min=0, max=count) for kind, count in enumerate(counts)}
    check_room(room, dict.fromkeys(ranges, need), ranges)


def test_cpus_of_the_most_replicas_must_be_there() -> None:
    room, need = Room(num_cpus=4, num_gpus=0), ReplicaNeed(num_cpus=0.5, num_gpus=0)
    check(room, need, 4, 4)
    with pytest.raises(InputError, match=r"cluster's 4 CPUs, got 4\.5\. .*--cluster-cpus"):
        check(room, need, 4, 5)


@pytest.mark.parametrize(
    ("share", "num_gpus", "counts", "got"),
    [
        *[(1, 1, (1, 1), "1 GPUs, got 2"), (0.6, 2, (2, 1), "2 GPUs, got 3")],
        *[(2, 3, (1, 1), "3 GPUs, got 4"), (1, 0, (1,), "0 GPUs, got 1")],
    ],
)
def test_gpus_of_the_most_replicas_must_be_there(
    share: float, num_gpus: int, counts: tuple[int, ...], got: str
) -> None:
    need = ReplicaNeed(num_cpus=0, num_gpus=share)
    with pytest.raises(InputError, match=f"must fit this machine's {got}"):
        check(Room(num_cpus=1, num_gpus=num_gpus), need, *counts)
    check(Room(num_cpus=1, num_gpus=int(got.split()[-1])), need, *counts)


@pytest.mark.parametrize(
    ("need", "free", "counts", "fits"),
    [
        ((0.5, 0), {"CPU": 0.5}, (2, 1), True),
        ((0.5, 0), {"CPU": 0.4}, (2, 1), False),
        ((0.5, 0), {}, (2, 1), False),
        ((0, 1), {"GPU": 1.0}, (1, 1), True),
        ((0, 1), {"GPU": 0.5}, (1, 1), False),
        # .4 of each of two devices is left: .6 fits neither.
        ((0, 0.6), {"GPU": 0.8}, (2, 1), False),
        ((0, 0.5), {"GPU": 0.5}, (3, 1), True),
    ],
)
def test_one_more_replica_fits_what_is_left(
    need: tuple[float, float], free: dict[str, float], counts: tuple[int, ...], fits: bool
) -> None:
    needs = ReplicaNeed(num_cpus=need[0], num_gpus=need[1])
    names = dict(enumerate(counts))
    more = {str(kind): count for kind, count in names.items()}
    room = Room(num_cpus=8, num_gpus=2)
    assert fits_one_more(needs, [free], room, dict.fromkeys(more, needs), more) == fits


HALF_FREE = {"CPU": 0.5, "GPU": 0.5}


@pytest.mark.parametrize(
    ("needed", "nodes", "left_out"),
    [
        ([(0, 1)], [HALF_FREE] * 4, [(0, 1)]),
        ([(0, 0.5)] * 4, [HALF_FREE] * 4, []),
        ([(1, 0)], [{"CPU": 0.5}, {}, {"CPU": 1.0, "memory": 7.0}], []),
        # Each node has enough of one thing.
        ([(1, 1)], [{"CPU": 1.0}, {"GPU": 1.0}], [(1, 1)]),
        # The large one takes the first node, wherever it stands.
        ([(1, 0), (3, 0), (1, 0)], [{"CPU": 3.0}, {"CPU": 1.0}], [(1, 0)]),
        # .1 + .1 + .1 is more than .3 in floating point.
        ([(0.1, 0)] * 3, [{"CPU": 0.3}], []),
        ([(0.5, 0)], [], [(0.5, 0)]),
    ],
)
def test_replica_lies_whole_on_one_node(
    needed: list[tuple[float, float]],
    nodes: list[dict[str, float]],
    left_out: list[tuple[float, float]],
) -> None:
    needs = [ReplicaNeed(num_cpus=cpus, num_gpus=gpus) for cpus, gpus in needed]
    found = without_place(needs, nodes)
    assert [(it.num_cpus, it.num_gpus) for it in found] == left_out


def test_weights_of_the_most_replicas_must_fit_the_memory() -> None:
    ranges = {"a": ReplicaRange(min=0, max=3), "b": ReplicaRange.of(1)}
    check_memory({"a": 1 << 30, "b": 1 << 30}, ranges, 4 << 30)
    with pytest.raises(InputError, match=r"machine's 3\.5 GiB of memory, got weights of 4\.0 GiB"):
        check_memory({"a": 1 << 30, "b": 1 << 30}, ranges, 7 << 29)


def test_weights_in_half_precision_take_half_of_their_file(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / WEIGHTS_NAME).write_bytes(bytes(400))
    folders = {kind: tmp_path / kind for kind in ("a", "b", "elsewhere")}
    dtypes = {"a": "float32", "b": "bf16", "elsewhere": "float32"}
    assert weights_in(folders, dtypes) == {"a": 400, "b": 200}


def test_replicas_without_a_share_of_their_own_fit_the_gpus_there_are() -> None:
    assert gpu_share(2, 0) == 0
    assert gpu_share(2, 1) == 0.5
    assert gpu_share(2, 4) == 1
    for count, num_gpus in itertools.product(range(1, 40), range(1, 9)):
        share = gpu_share(count, num_gpus)
        assert num_devices({"a": share}, {"a": count}) <= num_gpus
        # One more in each device would not fit.
        assert share == 1 or (-(-count // num_gpus) + 1) * share > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-gpus", "1"], "this machine's 0 GPUs, got 1. Leave --num-gpus out"),
        (["--replicas", "dialogue=100"], "must fit the local cluster's 4 CPUs, got 50"),
        (["--num-cpus", "100"], "must fit the local cluster's 4 CPUs, got 100"),
        (["--num-gpus", "1.5"], "--num-gpus must be at most 1 or whole, got 1.5"),
        (["--num-gpus", "x"], "--num-gpus must be a number in [0, 64], got x"),
        (["--num-gpus", "moon=1"], "with a kind of dialogue, got 'moon'"),
        (["--num-gpus", "1,dialogue=1"], "must name every kind once, got dialogue in"),
        (["--num-gpus", "dialogue=2"], "this machine's 0 GPUs, got 2. Leave --num-gpus out"),
        (["--num-gpus", "dialogue=3"], "on 3 GPUs must have as many layers, got 2 in"),
        (["--replicas", "dialogue=1,dialogue=0"], "every kind once, got dialogue twice"),
        (["--replicas", "dialogue=²"], "KIND=COUNT or KIND=MIN..MAX"),
    ],
)
def test_fleet_without_room_is_refused_before_ray_is_started(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_teachers.write_dialogue_teacher(tmp_path / "dialogue", tiny_teachers.tiny_vocabulary())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(up, "num_visible_devices", lambda _visible: 0)
    asked = ["up", "--dialogue", str(tmp_path / "dialogue"), "--cluster-cpus", "4", *options]
    # tests/unit/conftest.py refuses a keeper.
    with pytest.raises(InputError, match=re.escape(message)):
        main([*asked, "--port", "31999", "--fleet", str(tmp_path / "fleet.json")])
    assert not (tmp_path / "fleet.json").exists()


def test_replica_has_no_place_on_a_node_without_the_resource_of_its_kind() -> None:
    need = ReplicaNeed(num_cpus=0.5, num_gpus=0, resources={"dialogue": 0.001})
    assert without_place([need], [{"CPU": 4.0}, {"CPU": 1.0, "dialogue": 1.0}]) == []
    assert without_place([need], [{"CPU": 4.0}, {"CPU": 0.25, "dialogue": 1.0}]) == [need]


@pytest.mark.parametrize(
    ("asked", "num_gpus", "expected"),
    [
        ("", 2, {"dialogue": 1, "recommendation": 1}),
        ("", 1, {"dialogue": 0.5, "recommendation": 0.5}),
        ("1", 2, {"dialogue": 1, "recommendation": 1}),
        ("dialogue=2", 3, {"dialogue": 2, "recommendation": 1}),
        ("dialogue=2,recommendation=0", 2, {"dialogue": 2, "recommendation": 0}),
        ("dialogue=2", 2, r"must fit this machine's 2 GPUs, got 3\. .*recommendation=0"),
        ("2", 4, "a replica of recommendation teachers must have at most one GPU, got 2"),
    ],
)
def test_gpus_that_are_asked_for_one_kind_are_not_shared_among_the_others(
    asked: str,
    num_gpus: int,
    expected: dict[str, float] | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = tiny_teachers.write_teachers(tmp_path, tiny_teachers.tiny_vocabulary())
    monkeypatch.setattr(up, "num_visible_devices", lambda _visible: num_gpus)
    args = parse(["up", "--num-gpus", asked])
    dtypes, ranges = dict.fromkeys(folders, "float32"), dict.fromkeys(folders, ReplicaRange.of(1))

    def shares() -> dict[str, float]:
        gpus = parse_gpus(args.num_gpus, folders, SERVED_KINDS)
        return up._checked_shares(args, folders, dtypes, gpus, ranges)

    if isinstance(expected, dict):
        assert shares() == expected
    else:
        with pytest.raises(InputError, match=expected):
            shares()


def test_new_cluster_has_the_cpus_of_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    assert parse(["up"]).cluster_cpus <= 64
