from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.stages import ROOT, Demo, Machine


def test_demo_commands_use_configs_that_exist_and_the_tokenizer_beside_the_data(
    tmp_path: Path,
) -> None:
    (tmp_path / "dialogpt-tokenizer").mkdir()
    machine = Machine(num_cores=8, num_devices=0, python=Path(sys.executable))
    source = tmp_path / "redial"
    real = Demo(source=source, output=tmp_path / "out", machine=machine)
    assert str(tmp_path / "dialogpt-tokenizer") in real.prepare().argv
    for demo in (real, Demo(source=None, output=tmp_path / "out", machine=machine)):
        commands = [demo.pretrain(kind) for kind in ("dialogue", "recommendation", "classifier")]
        for command in (*commands, demo.train_student("distilled")):
            config = command.argv[command.argv.index("--config") + 1]
            assert (ROOT / config).is_file(), config


def test_demo_without_a_tokenizer_beside_the_data_names_the_hub(tmp_path: Path) -> None:
    machine = Machine(num_cores=2, num_devices=0, python=Path(sys.executable))
    demo = Demo(source=tmp_path / "redial", output=tmp_path / "out", machine=machine)
    assert demo.prepare().argv[-1] == "microsoft/DialoGPT-small"


@pytest.mark.parametrize(
    ("num_cores", "num_devices", "num_ranks", "threads", "accelerator"),
    [(2, 0, 2, "1", "cpu"), (8, 0, 2, "4", "cpu"), (8, 1, 1, "8", None), (16, 4, 2, "8", None)],
)
def test_machine_shares_cores_and_devices(
    num_cores: int, num_devices: int, num_ranks: int, threads: str, accelerator: str | None
) -> None:
    machine = Machine(num_cores=num_cores, num_devices=num_devices, python=Path(sys.executable))
    assert machine.num_ranks == num_ranks
    environment = machine.environment(machine.num_ranks)
    assert environment["OMP_NUM_THREADS"] == threads
    assert environment.get("DS_ACCELERATOR") == accelerator
    assert environment["RAY_ADDRESS"] is None
