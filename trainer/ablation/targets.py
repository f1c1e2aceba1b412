"""The targets of cells: the teachers score the corpus once for all that ask for the same rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from cluster.launch.machine import Machine
from cluster.launch.teachers import TeacherFleet, serve_teachers, take_down
from protos.fingerprint import digest_strings
from trainer.ablation.config import TeacherPair
from trainer.ablation.plan import PlannedCell, with_settings
from trainer.checkpoints.provenance import flat_settings
from trainer.common.atomic import write_text
from trainer.config.run import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.data.manifest import read_manifest
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.models.frozen import read_card

CUTS = (
    *("distill.temperature", "distill.top_k", "distill.recommendation_top_p"),
    *("distill.recommendation_top_k", "distill.tail", "distill.values"),
)
"""Settings that a row depends on."""
ALL_ROWS = {
    **{"distill.gate": "soft", "distill.fixed_lambda": None, "distill.gamma": 0.5},
    "train.share": 1.0,
}
"""What is built for these serves every gate, weight and share."""
BUILT_SUFFIX = ".built"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """The caches of one ablation."""

    folder: Path
    machine: Machine
    launcher: Launcher

    def cache(self, cell: PlannedCell) -> Path | None:
        """Where the targets of a cell lie; None if it asks no teacher."""
        if cell.config.distill.gamma == 0.0:
            return None
        return self.folder / targets_digest(cell.config, cell.teachers)[:12]

    def build_missing(self, cells: Sequence[PlannedCell]) -> None:
        """Build what is not there yet; what an earlier build was stopped in is gone on with."""
        todo: dict[Path, PlannedCell] = {}
        for cell in cells:
            cache = self.cache(cell)
            if cache is not None and not _mark(cache).exists():
                todo.setdefault(cache, cell)
        for cache, cell in todo.items():
            self._build(cache, cell)

    def _build(self, cache: Path, cell: PlannedCell) -> None:
        config = with_settings(cell.config, ALL_ROWS, "targets")
        path = cache.with_name(f"{cache.name}.yaml")
        write_text(path, to_yaml(config))
        fleet = TeacherFleet(
            dialogue=Path(cell.teachers.dialogue).resolve(),
            recommendation=Path(cell.teachers.recommendation).resolve(),
            file=self.folder.resolve() / "fleet.json",
            machine=self.machine,
            num_others=0,
        )
        take_down(fleet, self.launcher)
        with serve_teachers(fleet, self.launcher) as directory:
            self.launcher.run([self._build_command(path, cache, directory)])
        _mark(cache).touch()

    def _build_command(self, config: Path, cache: Path, directory: str) -> Command:
        return self.machine.module(
            f"targets {cache.name}",
            *("trainer.targets", "build", "--config", str(config.resolve())),
            *("--output", str(cache.resolve()), f"teachers.directory={directory}"),
        )


def targets_digest(config: RunConfig, teachers: TeacherPair) -> str:
    """Digest of what the rows of a run depend on: data, teachers, cut, and the draws' seed."""
    flat = flat_settings(config)
    cuts = [f"{key}={flat[key]}" for key in CUTS]
    if config.distill.tail == "sampled":
        cuts.append(f"seed={config.seed}")
    manifest = read_manifest(Path(config.data))
    return digest_strings(
        [manifest.vocabulary_digest, manifest.graph_digest, manifest.dialogue_digests["train"]],
        list(teacher_digests(teachers).values()),
        cuts,
    )


def teacher_digests(teachers: TeacherPair) -> dict[str, str]:
    """Kind -> digest of its teacher's weights.

    Raises:
        MissingError: if a folder is no frozen model's, with the command that makes one.
        InputError: if it is another kind's.
    """
    folders = {DIALOGUE: teachers.dialogue, RECOMMENDATION: teachers.recommendation}
    return {
        kind: read_card(Path(folder), kind, check_weights=False).weights_digest
        for kind, folder in folders.items()
    }


def _mark(cache: Path) -> Path:
    """Beside a cache that is whole."""
    return cache.with_name(f"{cache.name}{BUILT_SUFFIX}")
