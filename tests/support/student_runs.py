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
from pathlib import Path
from typing import Any

from cluster.launch.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ("distill.top_k=0", "distill.recommendation_top_p=1", "distill.recommendation_top_k=0")
EXACT = (*WHOLE, "distill.values=float32", "distill.gamma=0.6", "distill.eta=0.1")
SERVED_STEPS = 20
SERVED = (*EXACT, f"train.steps={SERVED_STEPS}", "seed=7")
TINY = ("student.num_layers=1", "student.hidden_size=32", "student.num_heads=2")
PLAIN_STEPS = 60
# Checkpoints of steps 40 and 60.
PLAIN = ("distill.gamma=0", f"train.steps={PLAIN_STEPS}", "train.checkpoint_every=40")


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


def plain_student(data: Path, output: Path, stage: int) -> None:
    """An uninterrupted run of two ranks without teachers."""
    result = run_student(data, output, *PLAIN, f"zero_stage={stage}")
    assert result.returncode == 0, result.stderr


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
