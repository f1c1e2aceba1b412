"""The command that starts a student's ranks, on the devices that are visible."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.launch.students import student_start
from trainer.common.errors import InputError

UUIDS = ["GPU-aa", "GPU-bb", "GPU-cc"]
PYTHON = Path("bin/python")


def argv(num_ranks: int, visible: str | None) -> tuple[str, ...]:
    start = student_start(num_ranks, visible=visible, python=PYTHON, devices=lambda: UUIDS)
    return start.argv


def test_ranks_without_a_choice_of_devices_are_a_number() -> None:
    assert argv(2, None)[:3] == ("deepspeed", "--num_accelerators", "2")


@pytest.mark.parametrize(
    ("num_ranks", "visible", "include"),
    [(1, "1", "localhost:1"), (2, "2,0,1", "localhost:2,0"), (1, "GPU-cc", "localhost:2")],
)
def test_ranks_sit_on_the_first_visible_devices(num_ranks: int, visible: str, include: str) -> None:
    command = argv(num_ranks, visible)
    assert command[:3] == ("deepspeed", "--include", include)
    # deepspeed refuses a number of ranks beside it.
    assert "--num_accelerators" not in command
    assert command[-1] == "trainer/main.py"


def test_indices_of_the_drivers_list_are_taken_in_the_drivers_order() -> None:
    start = student_start(1, visible="GPU-bb", python=PYTHON, devices=lambda: UUIDS)
    assert start.env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert student_start(1, visible="1", python=PYTHON, devices=lambda: UUIDS).env == {}


def test_rank_on_an_instance_of_a_mig_device_runs_without_the_deepspeed_command() -> None:
    assert argv(1, "MIG-1,MIG-2") == ("bin/python", "-m", "trainer.main")
    with pytest.raises(InputError, match="cannot start a rank on an instance of a MIG device"):
        argv(2, "MIG-1,MIG-2")


def test_more_ranks_than_visible_devices_are_refused() -> None:
    with pytest.raises(InputError, match="a device for each of 2 ranks, got '1'"):
        argv(2, "1")
