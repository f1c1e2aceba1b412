"""What the launcher and the demo do without a process: ports, the screen, commands, folders."""

from __future__ import annotations

import io
import json
import signal
import socket
import sys
from pathlib import Path

import pytest

from cluster.demo import output_folder
from cluster.launch import ports
from cluster.launch.launcher import Launcher
from cluster.launch.machine import Machine
from cluster.launch.ports import PORTS, free_port
from cluster.launch.screen import Screen, duration, last_lines
from cluster.stages import Demo
from trainer.common.errors import MachineError

ROOT = Path(__file__).resolve().parents[3]


def launcher(tmp_path: Path, screen: io.StringIO | None = None) -> Launcher:
    return Launcher(tmp_path / "logs", screen=screen or io.StringIO(), grace_s=0.3)


def test_signal_handlers_are_restored(tmp_path: Path) -> None:
    before = [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with launcher(tmp_path):
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_free_port_and_those_after_it_can_be_bound() -> None:
    port = free_port(in_a_row=2)
    for each in (port, port + 1):
        with socket.create_server(("127.0.0.1", each)):
            assert each in PORTS


def test_free_port_passes_over_those_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port(in_a_row=3)
    monkeypatch.setattr(ports, "PORTS", range(port, port + 3))
    with socket.create_server(("127.0.0.1", port + 1)):
        assert {free_port() for _ in range(20)} <= {port, port + 2}
        with pytest.raises(OSError, match="2 ports in a row must be free"):
            free_port(in_a_row=2)


def test_last_lines_reads_progress_bars_and_colours_as_a_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 9000 + b"\none\n\n\x1b[31mtwo\x1b[0m\r 50%\r100%\n")
    assert last_lines(log, 3) == ["two", " 50%", "100%"]


def test_screen_on_a_terminal_rewrites_one_line(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream, log = Terminal(), tmp_path / "log"
    log.write_text("step 7\n")
    screen = Screen(stream)
    screen.show([("fit", log, 61.0)])
    assert stream.getvalue() == "\r\x1b[2K  fit [1 min 01 s] step 7"


def test_duration_is_seconds_or_minutes() -> None:
    assert duration(3.21) == "3.2 s"
    assert duration(247.9) == "4 min 07 s"


def test_output_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        output_folder(tmp_path / "out", None, resume=False),
        pytest.raises(MachineError, match="no other demo must run"),
        output_folder(tmp_path / "out", None, resume=False),
    ):
        pass


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


def test_demo_without_a_tokenizer_beside_the_data_leaves_it_to_the_corpus(tmp_path: Path) -> None:
    machine = Machine(num_cores=2, num_devices=0, python=Path(sys.executable))
    demo = Demo(source=tmp_path / "redial", output=tmp_path / "out", machine=machine)
    assert "--tokenizer" not in demo.prepare().argv


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


def test_output_folder_records_its_source(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out", tmp_path / "redial", resume=False):
        record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert record == {"source": str(tmp_path / "redial")}
