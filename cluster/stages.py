"""The stages of the demo as commands, each with its share of the machine."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.launch.child import Command
from cluster.launch.students import StudentStart, student_start
from trainer.common.devices import VARIABLE
from trainer.common.machine import num_cpus

ROOT = Path(__file__).resolve().parent.parent
NUM_RANKS = 2
NUM_TEACHERS = 2
# Lanes run side by side and share the cores; within a lane one fit follows the other.
PRETRAIN_LANES = (("recommendation", "classifier", "dialogue"),)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Cores, devices and interpreter that the stages may use."""

    num_cores: int
    num_devices: int
    """CUDA devices; 0: everything runs on the CPU."""
    python: Path
    """Interpreter of the stages; `deepspeed` is beside it."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES, on a machine with CUDA devices."""

    @property
    def num_ranks(self) -> int:
        """Student processes: two, or one on a machine with one CUDA device."""
        return min(NUM_RANKS, self.num_devices) if self.num_devices else NUM_RANKS

    def environment(self, num_processes: int) -> dict[str, str | None]:
        """Environment of a stage of which `num_processes` processes share the cores."""
        environment: dict[str, str | None] = {
            # DeepSpeed builds its CPU extension with the ninja that lies beside the interpreter.
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "OMP_NUM_THREADS": str(self.num_threads(num_processes)),
            # Start a cluster of our own, also in a shell that is configured for another one.
            "RAY_ADDRESS": None,
        }
        if not self.num_devices:
            environment["DS_ACCELERATOR"] = "cpu"
        return environment

    def student_start(self, script: str = "trainer/main.py") -> StudentStart:
        """How `script` is started on all ranks, on the devices that are visible."""
        return student_start(
            self.num_ranks, visible=self.visible, python=self.python, script=script
        )

    def num_threads(self, num_processes: int) -> int:
        """Cores for each of `num_processes` processes, at least one."""
        return max(1, self.num_cores // num_processes)


def this_machine() -> Machine:
    """This machine, as far as this process may use it."""
    # Not above: a mistake in the command line must not wait for torch.
    import torch

    num_devices = torch.cuda.device_count()
    return Machine(
        num_cores=num_cpus(),
        num_devices=num_devices,
        python=Path(sys.executable),
        visible=os.environ.get(VARIABLE) if num_devices else None,
    )


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One demo: its folders, and the command of each stage."""

    source: Path | None
    """Folder with dialogues; None: the synthetic corpus."""
    output: Path
    machine: Machine

    @property
    def recipe(self) -> str:
        """Name of the recipe in trainer/configs/."""
        return "redial-mini" if self.source else "synthetic"

    @property
    def fleet_file(self) -> Path:
        """Written by `teacher_server up`, read by `teacher_server down`."""
        return self.output / "fleet.json"

    def prepare(self) -> Command:
        """Raw dialogues -> examples, vocabulary and graph."""
        argv = ["trainer.data", "prepare", "--output", str(self.output / "data")]
        if self.source is None:
            return self._module("prepare", *argv, "--source", "synthetic")
        argv += ["--source", "redial", "--input", str(self.source)]
        # Without a copy on this disk, the corpus's own tokenizer is fetched by name.
        tokenizer = self.source.parent / "dialogpt-tokenizer"
        if tokenizer.is_dir():
            argv += ["--tokenizer", str(tokenizer)]
        return self._module("prepare", *argv)

    def pretrain(self, kind: str) -> Command:
        """Fit one frozen model."""
        config = f"trainer/configs/pretrain/{kind}-{self.recipe}.yaml"
        return self._module(
            f"pretrain {kind}",
            *("trainer.pretrain", kind, "--config", config),
            *("--output", str(self.output / kind), f"data={self.output / 'data'}"),
            num_processes=len(PRETRAIN_LANES),
        )

    def fleet_up(self, port: int) -> Command:
        """Serve both teachers; exits when they are ready."""
        num_processes = self.machine.num_ranks + NUM_TEACHERS
        # Ray does not schedule the student: both teachers share one device and leave it the others.
        num_gpus = 1 / NUM_TEACHERS if self.machine.num_devices else 0
        return self._module(
            "teachers up",
            *("teacher_server", "up", "--dialogue", str(self.output / "dialogue")),
            *("--recommendation", str(self.output / "recommendation")),
            *("--fleet", str(self.fleet_file), "--port", str(port)),
            *("--threads", str(self.machine.num_threads(num_processes))),
            *("--num-gpus", str(num_gpus)),
            num_processes=num_processes,
        )

    def fleet_down(self) -> Command:
        """Stop the fleet and the Ray cluster that `fleet_up` started."""
        return self._module(
            "teachers down", "teacher_server", "down", "--fleet", str(self.fleet_file)
        )

    def train_student(self, name: str, *overrides: str) -> Command:
        """Train the student into OUTPUT/NAME on all ranks."""
        machine = self.machine
        start = machine.student_start()
        return Command(
            name=f"student {name}",
            argv=(
                *start.argv,
                *("--config", f"trainer/configs/{self.recipe}.yaml"),
                *(f"data={self.output / 'data'}", f"output={self.output / name}"),
                f"classifier={self.output / 'classifier'}",
                *self._item_vectors(),
                *overrides,
            ),
            env={**machine.environment(machine.num_ranks), **start.env},
            cwd=ROOT,
        )

    @property
    def has_item_vectors(self) -> bool:
        """Whether the students' film rows start from the recommendation teacher's vectors.

        On the synthetic corpus these alone bring a student to the teacher's level (F1@10 .57, with
        teachers .50, random rows .13 and .19): nothing is left to be distilled.
        """
        return self.source is not None

    def _item_vectors(self) -> tuple[str, ...]:
        return (f"item_vectors={self.output / 'recommendation'}",) if self.has_item_vectors else ()

    def report(self) -> Command:
        """Evaluate the students and the dialogue teacher side by side."""
        return self._module(
            "report",
            *("trainer.evaluation.report", "--run", str(self.output / "distilled")),
            *("--undistilled", str(self.output / "undistilled")),
            *("--dialogue-teacher", str(self.output / "dialogue")),
            *(("--plain", str(self.output / "plain")) if self.has_item_vectors else ()),
            *("--data", str(self.output / "data")),
        )

    def _module(self, name: str, *argv: str, num_processes: int = 1) -> Command:
        return Command(
            name=name,
            argv=(str(self.machine.python), "-m", *argv),
            env=self.machine.environment(num_processes),
            cwd=ROOT,
        )
