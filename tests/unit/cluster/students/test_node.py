"""What a student node starts, and in which environment."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from cluster.students.node import NodeStart, launcher_command
from cluster.students.rank_environment import rank_devices, rank_environment
from trainer.common.errors import MachineError
from trainer.common.interfaces import interface_of

PYTHON = Path("/env/bin/python")


def environment(start: dict[str, str], *, devices: int = 0, slots: int = 2) -> dict[str, str]:
    return rank_environment(
        start, address="127.0.0.1", slots=slots, devices=devices, cpus=8, python=PYTHON
    )


def test_ranks_listen_on_the_interface_of_their_nodes_address() -> None:
    found = environment({"PATH": "/usr/bin"})
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == interface_of("127.0.0.1")


def test_programs_of_the_environment_come_first_and_ranks_share_the_cpus() -> None:
    found = environment({"PATH": "/usr/bin"})
    assert found["PATH"] == "/env/bin:/usr/bin"
    assert (found["OMP_NUM_THREADS"], found["DS_ACCELERATOR"]) == ("4", "cpu")
    assert environment({}, slots=16, devices=16)["OMP_NUM_THREADS"] == "1"
    assert environment({}, devices=2)["DS_ACCELERATOR"] == "cuda"


def test_what_the_user_has_set_on_the_node_stays_and_rays_own_goes() -> None:
    found = environment({"OMP_NUM_THREADS": "3", "GLOO_SOCKET_IFNAME": "ib0", "RAY_JOB_ID": "1"})
    assert (found["OMP_NUM_THREADS"], found["GLOO_SOCKET_IFNAME"]) == ("3", "ib0")
    assert "RAY_JOB_ID" not in found


def test_address_that_no_interface_has_is_refused() -> None:
    with pytest.raises(MachineError, match=r"one of its interfaces', got 192\.0\.2\.77"):
        interface_of("192.0.2.77")


def test_ranks_sit_on_the_devices_that_the_node_was_left() -> None:
    assert rank_devices({}, 2) == [0, 1]
    assert rank_devices({"CUDA_VISIBLE_DEVICES": "3,1,0"}, 2) == [3, 1]


def test_launcher_of_a_node_has_all_nodes_in_its_world_and_its_own_devices() -> None:
    start = NodeStart(
        node_rank=1,
        nodes=3,
        slots=2,
        master_address="10.0.0.1",
        master_port=20_001,
        argv=("--config", "a.yaml", "seed=1"),
    )
    command = launcher_command(start, [3, 1], "python")
    assert command[:3] == ["python", "-m", "cluster.students.launch_guard"]
    assert command[-4:] == ["trainer/main.py", "--config", "a.yaml", "seed=1"]
    assert {"--node_rank=1", "--master_addr=10.0.0.1", "--master_port=20001"} <= set(command)
    (info,) = [each for each in command if each.startswith("--world_info=")]
    world = json.loads(base64.urlsafe_b64decode(info.partition("=")[2]))
    # Two nodes may have one address: the names are ours.
    assert world == {"node-0": [0, 1], "node-1": [3, 1], "node-2": [0, 1]}
