"""The whole job: fit teachers, serve them, distil a student, compare, report.

    python -m cluster.demo [--data DIR] [--output DIR] [--resume]

Without --data it runs on the synthetic corpus; DIR holds dialogues in the format of ReDial.
Every stage is a command that can be run by hand; its output is OUTPUT/logs/STAGE.log.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.launch.child import Command
from cluster.launch.launcher import CommandFailed, Launcher
from cluster.launch.machine import ROOT, this_machine
from cluster.launch.only_one import LOCK_NAME, only_one
from cluster.launch.screen import duration
from cluster.launch.teachers import serve_teachers, take_down
from cluster.sources import checked_source
from cluster.stages import PRETRAIN_LANES, Demo
from trainer.common.atomic import write_json
from trainer.common.cli import run_main
from trainer.common.command import CommandParser
from trainer.common.errors import InputError
from trainer.common.text_files import read_json_object

REPORT_PARTS = ("report.json", "report.md", "plots")
RECORD_NAME = "demo.json"


class Stages:
    """Runs stages and marks the finished ones in the output folder."""

    def __init__(self, launcher: Launcher, output: Path) -> None:
        self._launcher = launcher
        self._finished = output / "finished"

    def run(self, *lanes: Sequence[Command]) -> None:
        """Run the stages that are not finished; lanes side by side."""
        self._finished.mkdir(parents=True, exist_ok=True)
        todo = [[it for it in lane if not self._mark(it.name).exists()] for lane in lanes]
        self._launcher.run(*todo, on_success=lambda done: self._mark(done.name).touch())

    def is_finished(self, name: str) -> bool:
        """Whether the stage succeeded, in this run or in the resumed one."""
        return self._mark(name).exists()

    def _mark(self, name: str) -> Path:
        return self._finished / name.replace(" ", "-")


def run_demo(demo: Demo, launcher: Launcher) -> None:
    """The story: prepare, pretrain, serve and distil, train without teachers, report."""
    stages = Stages(launcher, demo.output)
    take_down(demo.fleet, launcher)

    stages.run([demo.prepare()])
    stages.run(*([demo.pretrain(kind) for kind in lane] for lane in PRETRAIN_LANES))
    if not stages.is_finished("student distilled"):
        with serve_teachers(demo.fleet, launcher) as directory:
            stages.run([demo.train_student("distilled", f"teachers.directory={directory}")])
    stages.run([demo.train_student("undistilled", "distill.gamma=0")])
    if demo.has_item_vectors:
        stages.run([demo.train_student("plain", "distill.gamma=0", "item_vectors=null")])
    stages.run([demo.report()])

    for part in REPORT_PARTS:
        made = demo.output / "distilled" / part
        if made.is_dir():
            shutil.copytree(made, demo.output / part, dirs_exist_ok=True)
        else:
            shutil.copy2(made, demo.output / part)


@contextlib.contextmanager
def output_folder(output: Path, source: Path | None, *, resume: bool) -> Iterator[None]:
    """Lock the output folder, and empty it unless a demo is resumed in it.

    Raises:
        InputError: if the folder is not a demo's, or holds another demo than the one to resume.
        MachineError: if a demo runs in it.
    """
    record = {"source": str(source) if source else None}
    path = output / RECORD_NAME
    known = read_json_object(path) if path.is_file() else None
    if known is None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            f"--output must be a new folder or an earlier demo's, got {output}. "
            "Name another one: the demo empties it."
        )
    if resume and known != record:
        raise InputError(
            f"--resume must find a demo of the same --data in {output}, got "
            f"{'none' if known is None else known['source'] or 'the synthetic corpus'}. "
            "Leave --resume out to start afresh."
        )
    with only_one(output, "demo"):
        # The fleet file stays until its fleet is down.
        keep = {LOCK_NAME, RECORD_NAME, "fleet.json"}
        for entry in [] if resume else list(output.iterdir()):
            if entry.name not in keep:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        write_json(path, record)
        yield


def main(argv: list[str]) -> None:
    """Parse, run, print where the report is."""
    started_s = time.monotonic()
    arguments = _parse(argv)
    source = arguments.data.resolve() if arguments.data else None
    default = ROOT / "runs" / (f"demo-{source.name}" if source else "demo")
    demo = Demo(
        source=source,
        output=arguments.output.resolve() if arguments.output else default,
        machine=this_machine(),
    )
    shown = os.path.relpath(demo.output)
    with output_folder(demo.output, source, resume=arguments.resume):
        _print(f"{source.name if source else 'synthetic corpus'} -> {shown} ({_hardware(demo)})")
        try:
            with Launcher(demo.output / "logs", screen=sys.stdout) as launcher:
                run_demo(demo, launcher)
        except CommandFailed as error:
            sys.stderr.write(f"{error.tail}\n")
            raise
    elapsed = duration(time.monotonic() - started_s)
    _print(f"done in {elapsed}: {shown}/report.md, {shown}/report.json")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog="python -m cluster.demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with dialogues as in ReDial")
    parser.add_argument("--output", type=Path, help="default: runs/demo, or runs/demo-NAME of DIR")
    parser.add_argument(
        "--resume", action="store_true", help="skip the stages that an earlier demo has finished"
    )
    arguments = parser.parse_args(argv)
    checked_source(arguments.data)
    return arguments


def _hardware(demo: Demo) -> str:
    machine = demo.machine
    devices = f"{machine.num_devices} CUDA devices" if machine.num_devices else "no CUDA device"
    return f"{machine.num_cores} cores, {devices}, {machine.num_ranks} student ranks"


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_main(main)
