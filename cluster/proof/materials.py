"""Data and teachers of a proof: a small synthetic corpus, and models fitted on it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TextIO

from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from trainer.kinds.names import DIALOGUE, RECOMMENDATION

ROOT = Path(__file__).resolve().parents[2]
FITS = {
    DIALOGUE: (
        *("student.num_layers=1", "student.hidden_size=32", "student.num_heads=2"),
        "train.steps=100",
    ),
    RECOMMENDATION: ("epochs=2",),
}


def make_materials(folder: Path, screen: TextIO) -> None:
    """Write FOLDER/data and FOLDER/teachers/KIND."""
    data = folder / "data"
    prepare = ("trainer.data", "prepare", "--source", "synthetic", "--dialogues", "60")
    with Launcher(folder / "logs", screen=screen) as launcher:
        launcher.run([_command("prepare", *prepare, "--output", str(data))])
        launcher.run(*([_fit(kind, folder)] for kind in FITS))


def copy_materials(folder: Path, data: Path, teachers: dict[str, Path]) -> None:
    """The same from folders that are there."""
    shutil.copytree(data, folder / "data")
    for kind, teacher in teachers.items():
        shutil.copytree(teacher, folder / "teachers" / kind)


def _fit(kind: str, folder: Path) -> Command:
    output = folder / "teachers" / kind
    return _command(
        f"fit {kind}",
        *("trainer.pretrain", kind, "--config", f"trainer/configs/pretrain/{kind}-synthetic.yaml"),
        *("--output", str(output), f"data={folder / 'data'}", *FITS[kind]),
    )


def _command(name: str, *arguments: str) -> Command:
    return Command(
        name=name,
        argv=(sys.executable, "-m", *arguments),
        env={"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
