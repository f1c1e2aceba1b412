"""CUDA_VISIBLE_DEVICES against a driver's list."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trainer.common import devices
from trainer.common.devices import device_indices, driver_devices, num_visible_devices
from trainer.common.errors import InputError

UUIDS = ["GPU-aa01", "GPU-ab02", "GPU-bb03"]
LISTING = """GPU 0: NVIDIA A100 (UUID: GPU-aa01)
  MIG 1g.5gb Device 0: (UUID: MIG-9c1)
GPU 1: NVIDIA A100 (UUID: GPU-ab02)
"""


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("", []),
        ("-1", []),
        ("1,-1,2", [1]),
        ("GPU-bb03,GPU-aa01", [2, 0]),
        ("GPU-ab", [1]),
    ],
)
def test_visible_devices_become_indices(visible: str, indices: list[int]) -> None:
    assert device_indices(visible, lambda: UUIDS) == indices
    assert num_visible_devices(visible, lambda: UUIDS) == len(indices)


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        ("GPU-zz", r"UUIDs of this machine's devices \(GPU-aa01, .*got GPU-zz. Give the indices"),
        ("GPU-a", "got GPU-a"),  # two begin so
        ("MIG-9c1", "must be devices .* got MIG-9c1.* python -m trainer.main"),
    ],
)
def test_what_the_deepspeed_command_cannot_take_is_refused(visible: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        device_indices(visible, lambda: UUIDS)


def test_visible_devices_count_no_more_than_there_are() -> None:
    assert num_visible_devices(None, lambda: UUIDS) == 3
    assert num_visible_devices("0,1,2,3,4", lambda: UUIDS) == 3
    assert num_visible_devices("MIG-9c1,MIG-9c2", lambda: UUIDS) == 2


def test_driver_list_is_read_without_the_instances_of_a_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = subprocess.CompletedProcess((), 0, stdout=LISTING)
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_kwargs: done)
    assert driver_devices() == ["GPU-aa01", "GPU-ab02"]


def test_driver_without_its_tools_has_devices_without_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none(*_args: object, **_kwargs: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", none)
    monkeypatch.setattr(devices, "PROC_DEVICES", tmp_path / "gpus")
    assert driver_devices() == []
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    assert driver_devices() == [""]
