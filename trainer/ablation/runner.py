"""Make the cells that are missing: targets once, then each student trained, answered and scored."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from cluster.launch.machine import Machine
from cluster.launch.ports import free_port
from cluster.launch.screen import duration
from trainer.ablation import stages
from trainer.ablation.arms import CEILING, DIALOGUE_TEACHER
from trainer.ablation.cell import Cell, read_cell, write_cell
from trainer.ablation.checks import (
    check_done,
    check_same_sources,
    declared_settings,
    shared_settings,
    training_settings,
)
from trainer.ablation.outcome import facts_of, last_steps, sources_of
from trainer.ablation.plan import PlannedCell
from trainer.ablation.revision import Revision, SameRevisions
from trainer.ablation.run_folder import RESPOND, RunFolder
from trainer.ablation.scored import Scored, score_records
from trainer.ablation.targets import Targets, teacher_digests
from trainer.common.atomic import write_text
from trainer.common.text_files import read_json_object
from trainer.config.run import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.data.manifest import read_manifest
from trainer.data.prepared import PreparedData, load_prepared
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.scoring.sums import DialogueSums

CACHED = {"in_flight": 4, "connect_s": 1.0, "patience_s": 60.0}
"""Of teachers that do not run: a target that is missing is a mistake, and told soon."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Makes cells on this machine, one after another."""

    machine: Machine
    launcher: Launcher
    cells: Path
    """Folder of the finished ones."""
    work: Path
    """Folder of runs, targets and logs."""
    revision: Revision
    same: SameRevisions

    def missing(self, planned: Sequence[PlannedCell], *, again: bool) -> list[PlannedCell]:
        """Those that no file holds.

        Raises:
            InputError: if a file is of other code or settings; with `again` it is made again.
        """
        return [cell for cell in planned if not self._is_done(cell, again=again)]

    def make_all(self, todo: Sequence[PlannedCell]) -> None:
        """Make them, and write each once it is finished."""
        targets = Targets(
            folder=self.work / "targets", machine=self.machine, launcher=self.launcher
        )
        targets.build_missing([cell for cell in todo if cell.arm.name not in CEILING])
        for number, cell in enumerate(todo, start=1):
            data = load_prepared(cell.config.data)
            made = self._make(cell, data, targets.cache(cell))
            write_cell(cell.path(self.cells), made)
            _say(f"{number}/{len(todo)} {_summary(made)}")

    def _is_done(self, cell: PlannedCell, *, again: bool) -> bool:
        path = cell.path(self.cells)
        if not path.is_file():
            return False
        try:
            found = read_cell(path)
            check_done(cell, found, self.revision, self.same, path)
            check_same_sources(
                found,
                vocabulary=read_manifest(Path(cell.config.data)).vocabulary_digest,
                teachers=teacher_digests(cell.teachers),
                path=path,
            )
        except ValueError:
            if not again:
                raise
            return False
        return True

    def _make(self, cell: PlannedCell, data: PreparedData, cache: Path | None) -> Cell:
        if cell.arm.name in CEILING:
            return self._score_teacher(cell, data)
        folder = RunFolder(path=Path(cell.config.output))
        folder.open(self.revision, training_settings(cell), self.same)
        name = f"{cell.table.name} {cell.name}"
        if "train" not in folder.seconds:
            config = folder.path.with_suffix(".yaml")
            write_text(config, to_yaml(_trained_with(cell.config, cache)))
            self._run(folder, "train", [stages.train(self.machine, name, config)])
        scored = self._respond_and_score(folder, name, folder.path, data, cell)
        if cell.table.diverges:
            compared = self._diverge(folder, name, data, cell)
            scored = scored.with_counts("paper.all", compared)
        folder.forget_checkpoints()
        # Other cells of the same student may have let it answer otherwise.
        of_cell = ("train", _stage_of(cell), "score", *(["diverge"] * cell.table.diverges))
        return self._cell(
            cell,
            scored,
            seconds={it: of for it, of in folder.seconds.items() if it in of_cell},
            sources=sources_of(folder.path),
            steps=last_steps(folder.path),
        )

    def _score_teacher(self, cell: PlannedCell, data: PreparedData) -> Cell:
        """A teacher as a system: nothing is trained, and tables of the same teachers share it."""
        digests = teacher_digests(cell.teachers)
        is_dialogue = cell.arm.name == DIALOGUE_TEACHER
        kind = DIALOGUE if is_dialogue else RECOMMENDATION
        model = cell.teachers.dialogue if is_dialogue else cell.teachers.recommendation
        folder = RunFolder(path=self.work / "teachers" / f"{kind}-{digests[kind][:12]}")
        folder.open(self.revision, {"data": cell.config.data}, self.same)
        scored = self._respond_and_score(folder, f"{kind} teacher", Path(model), data, cell)
        vocabulary = data.vocabulary.digest
        sources = {"vocabulary": vocabulary, "teachers": {kind: digests[kind]}}
        return self._cell(cell, scored, seconds=folder.seconds, sources=sources, steps={})

    def _respond_and_score(
        self, folder: RunFolder, name: str, model: Path, data: PreparedData, cell: PlannedCell
    ) -> Scored:
        responses, stage = folder.responses(cell.answering.name), _stage_of(cell)
        if stage not in folder.seconds:
            options = _options_of(cell)
            lanes = stages.respond(self.machine, name, model, data.root, responses, options)
            self._run(folder, stage, *lanes)
        started_s = time.monotonic()
        scored = score_records(responses, data, stages.SPLIT)
        folder.finish("score", time.monotonic() - started_s)
        return scored

    def _diverge(
        self, folder: RunFolder, name: str, data: PreparedData, cell: PlannedCell
    ) -> DialogueSums:
        """The student beside the dense dialogue teacher."""
        output = folder.divergence
        if "diverge" not in folder.seconds:
            teacher = Path(cell.teachers.dialogue)
            command = stages.diverge(self.machine, name, folder.path, teacher, data.root, output)
            self._run(folder, "diverge", [command])
        return DialogueSums.from_dict(read_json_object(output).get("sums"), str(output))

    def _run(self, folder: RunFolder, stage: str, *lanes: Sequence[Command]) -> None:
        started_s = time.monotonic()
        self.launcher.run(*lanes)
        folder.finish(stage, time.monotonic() - started_s)

    def _cell(
        self,
        cell: PlannedCell,
        scored: Scored,
        *,
        seconds: dict[str, float],
        sources: dict[str, Any],
        steps: dict[str, Any],
    ) -> Cell:
        return Cell(
            table=cell.table.name,
            arm=cell.arm.name,
            seed=cell.seed,
            settings={} if cell.arm.name in CEILING else declared_settings(cell),
            shared={} if cell.arm.name in CEILING else shared_settings(cell),
            revision=self.revision,
            sources=sources,
            machine=facts_of(self.machine),
            seconds=seconds,
            steps=steps,
            scores=scored.scores,
            sums=scored.sums,
        )


def _stage_of(cell: PlannedCell) -> str:
    return " ".join(filter(None, (RESPOND, cell.answering.name)))


def _options_of(cell: PlannedCell) -> tuple[str, ...]:
    """How the records of a cell are decoded."""
    answering = cell.answering
    if answering.decoding == "greedy":
        return ()
    draws = ("--top-p", str(answering.top_p), "--seed", str(cell.seed))
    return ("--decoding", answering.decoding, *draws)


def _trained_with(config: RunConfig, cache: Path | None) -> RunConfig:
    """The run's settings with its targets, which come from the cache alone."""
    teachers = dataclasses.replace(
        config.teachers,
        # A port on which nobody listens: another fleet's teachers are not asked.
        directory=f"127.0.0.1:{free_port()}",
        cache="" if cache is None else str(cache.resolve()),
        **CACHED,
    )
    return dataclasses.replace(config, teachers=teachers)


def _summary(cell: Cell) -> str:
    f1 = cell.scores["paper.all"].get("f1_at_10")
    shown = "-" if f1 is None else f"{f1:.3f}"
    spent = duration(sum(cell.seconds.values()))
    return f"{cell.table} {cell.arm} seed {cell.seed}: F1@10 {shown}, {spent}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
