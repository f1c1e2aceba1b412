"""Real runs of `deepspeed trainer/main.py` for tests: two ranks on the CPU, tiny models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.launch.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ("distill.top_k=0", "distill.recommendation_top_p=1", "distill.recommendation_top_k=0")
EXACT = (*WHOLE, "distill.values=float32", "distill.gamma=0.6", "distill.eta=0.1")
TINY = ("student.num_layers=1", "student.hidden_size=32", "student.num_heads=2")


def launcher(ranks: int) -> list[str]:
    # The launcher of this very environment, whatever PATH says.
    deepspeed = shutil.which("deepspeed", path=str(Path(sys.executable).parent))
    assert deepspeed is not None
    return [deepspeed, "--num_accelerators", str(ranks), "--master_port", str(free_port())]


def student_command(data: Path, output: Path, *overrides: str, ranks: int = 2) -> list[str]:
    return [
        *launcher(ranks),
        "trainer/main.py",
        "--config",
        "trainer/configs/synthetic.yaml",
        f"data={data}",
        f"output={output}",
        *TINY,
        *overrides,
    ]


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": path}


def run_student(
    data: Path, output: Path, *overrides: str, ranks: int = 2, timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    return run_to_end(student_command(data, output, *overrides, ranks=ranks), timeout_s)


def run_to_end(argv: Sequence[str], timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """A launcher and its ranks, none of which outlives the time or the test."""
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            out, err = run.communicate(timeout=timeout_s)
        except BaseException:
            os.killpg(run.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(argv, run.returncode, out, err)


@contextmanager
def started(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher and its ranks beside the test, which do not outlive it."""
    with log.open("w") as file:
        run = subprocess.Popen(
            argv, cwd=ROOT, env=environment(), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def step_lines(output: Path) -> list[dict[str, Any]]:
    # Of a run that goes on the last line may be half written.
    lines = (output / "metrics.jsonl").read_text().rpartition("\n")[0].splitlines()
    return [entry for entry in map(json.loads, lines) if "event" not in entry]


def loss_curve(output: Path) -> list[float]:
    return [entry["loss"] for entry in step_lines(output)]


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


@dataclass(frozen=True)
class Service:
    """A fleet that is up, and the folders it serves."""

    directory: str
    fleet: Path
    dialogue: Path
    recommendation: Path


def command(*arguments: str, launch: Sequence[str] = (sys.executable, "-m")) -> None:
    argv = [*launch, *arguments]
    result = subprocess.run(
        argv, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr


def fit(kind: str, data: Path, output: Path, *overrides: str, ranks: int = 0) -> Path:
    """A frozen model, fitted in a plain process or on so many ranks of the launcher."""
    config = f"trainer/configs/pretrain/{kind}-synthetic.yaml"
    arguments = ("trainer.pretrain", kind, "--config", config, "--output", str(output))
    launch = [*launcher(ranks), "--module"] if ranks else [sys.executable, "-m"]
    command(*arguments, f"data={data}", *overrides, launch=launch)
    return output


@contextmanager
def serving(folder: Path, dialogue: Path, recommendation: Path) -> Iterator[Service]:
    port = free_port()
    service = Service(
        directory=f"127.0.0.1:{port}",
        fleet=folder / "fleet.json",
        dialogue=dialogue,
        recommendation=recommendation,
    )
    teachers = ("--dialogue", str(dialogue), "--recommendation", str(recommendation))
    up = ("teacher_server", "up", *teachers, "--port", str(port), "--fleet", str(service.fleet))
    command(*up)
    try:
        yield service
    finally:
        command("teacher_server", "down", "--fleet", str(service.fleet))


def run_in_process(
    service: Service, data: Path, output: Path, *overrides: str
) -> subprocess.CompletedProcess[str]:
    """The same student with the same teachers inside every rank."""
    argv = student_command(data, output, *overrides)
    script = argv.index("trainer/main.py")
    folders = ("--dialogue", str(service.dialogue))
    folders = (*folders, "--recommendation", str(service.recommendation))
    argv[script : script + 1] = ["cluster/bench/fleet/in_process_student.py", *folders]
    return run_to_end(argv)
