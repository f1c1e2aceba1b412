"""Teachers for system tests: fitted, served with and without Ray, or inside every rank."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.fleet.fleet import Served, running_fleet
from cluster.launch.ports import free_port
from tests.support.student_runs import (
    ROOT,
    TINY,
    environment,
    launcher,
    run_to_end,
    student_command,
)


@dataclass(frozen=True, kw_only=True)
class FittedTeachers:
    """Folders of frozen models."""

    dialogue: Path
    recommendation: Path

    @property
    def options(self) -> tuple[str, ...]:
        """As commands take them."""
        folders = (str(self.dialogue), str(self.recommendation))
        return ("--dialogue", folders[0], "--recommendation", folders[1])


@dataclass(frozen=True, kw_only=True)
class Service:
    """A fleet that is up, and what it serves."""

    directory: str
    """host:port"""
    teachers: FittedTeachers
    fleet: Path | None = None
    """The file that names a fleet on Ray to later commands."""


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


def fit_both(data: Path, folder: Path) -> None:
    """One small teacher of each kind, in folders of their names."""
    settings = {"dialogue": (*TINY, "train.steps=30"), "recommendation": ("epochs=2",)}
    # Side by side: most of the time they import torch.
    with ThreadPoolExecutor() as pool:
        fits = [
            pool.submit(fit, kind, data, folder / kind, *overrides)
            for kind, overrides in settings.items()
        ]
    for each in fits:
        each.result()


@contextmanager
def serving(folder: Path, teachers: FittedTeachers) -> Iterator[Service]:
    """One replica of each kind on a Ray cluster of their own."""
    port, fleet = str(free_port()), folder / "fleet.json"
    command("teacher_server", "up", *teachers.options, "--port", port, "--fleet", str(fleet))
    try:
        yield Service(directory=f"127.0.0.1:{port}", teachers=teachers, fleet=fleet)
    finally:
        command("teacher_server", "down", "--fleet", str(fleet))


@contextmanager
def serving_without_ray(
    folder: Path, teachers: FittedTeachers, *, deterministic: bool = False
) -> Iterator[Service]:
    """The same servers as plain processes: up in a third of the time."""
    folders = {"dialogue": teachers.dialogue, "recommendation": teachers.recommendation}
    served = Served(folders=folders, deterministic=deterministic)
    with running_fleet(served, folder / "fleet") as fleet:
        yield Service(directory=fleet.directory, teachers=teachers)


def run_in_process(
    teachers: FittedTeachers, data: Path, output: Path, *overrides: str
) -> subprocess.CompletedProcess[str]:
    """The same student with the same teachers inside every rank."""
    argv = student_command(data, output, *overrides)
    script = argv.index("trainer/main.py")
    argv[script : script + 1] = ["cluster/bench/fleet/in_process_student.py", *teachers.options]
    return run_to_end(argv)
