"""The stages of the demo as commands, each with its share of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.launch.child import Command
from cluster.launch.machine import ROOT, Machine
from cluster.launch.teachers import TeacherFleet

# Lanes run side by side and share the cores; within a lane one fit follows the other.
PRETRAIN_LANES = (("recommendation", "classifier", "dialogue"),)


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
            return self.machine.module("prepare", *argv, "--source", "synthetic")
        argv += ["--source", "redial", "--input", str(self.source)]
        # Without a copy on this disk, the corpus's own tokenizer is fetched by name.
        tokenizer = self.source.parent / "dialogpt-tokenizer"
        if tokenizer.is_dir():
            argv += ["--tokenizer", str(tokenizer)]
        return self.machine.module("prepare", *argv)

    def pretrain(self, kind: str) -> Command:
        """Fit one frozen model."""
        config = f"trainer/configs/pretrain/{kind}-{self.recipe}.yaml"
        return self.machine.module(
            f"pretrain {kind}",
            *("trainer.pretrain", kind, "--config", config),
            *("--output", str(self.output / kind), f"data={self.output / 'data'}"),
            num_processes=len(PRETRAIN_LANES),
        )

    @property
    def fleet(self) -> TeacherFleet:
        """Both teachers, served beside the student's ranks."""
        return TeacherFleet(
            dialogue=self.output / "dialogue",
            recommendation=self.output / "recommendation",
            file=self.fleet_file,
            machine=self.machine,
            num_others=self.machine.num_ranks,
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
        return self.machine.module(
            "report",
            *("trainer.evaluation.report", "--run", str(self.output / "distilled")),
            *("--undistilled", str(self.output / "undistilled")),
            *("--dialogue-teacher", str(self.output / "dialogue")),
            *(("--plain", str(self.output / "plain")) if self.has_item_vectors else ()),
            *("--data", str(self.output / "data")),
        )
