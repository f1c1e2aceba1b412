"""This machine, shared by the commands of a longer job: cores, devices, and their environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.launch.child import Command
from cluster.launch.students import StudentStart, student_start
from trainer.common.devices import VARIABLE
from trainer.common.machine import num_cpus

ROOT = Path(__file__).resolve().parents[2]
NUM_RANKS = 2


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

    def module(self, name: str, *argv: str, num_processes: int = 1) -> Command:
        """`python -m ARGV` in the repository's root, with its share of the cores."""
        return Command(
            name=name,
            argv=(str(self.python), "-m", *argv),
            env=self.environment(num_processes),
            cwd=ROOT,
        )


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
