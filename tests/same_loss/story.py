"""The stages: BASE makes corpus, teachers and a cache, both trees train from it, one run is served.

Lanes of commands run side by side, because most of a stage is waiting for imports and for Ray.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from cluster.launch.ports import free_port
from tests.same_loss.compare import (
    Difference,
    compare_files,
    compare_metrics,
    compare_served,
    largest_deviation,
)
from tests.same_loss.trees import HERE, Tree
from trainer.data.manifest import MANIFEST_NAME

STEPS = 20
NUM_DIALOGUES = 60
RECIPE = "trainer/configs/synthetic.yaml"
TINY = ("student.num_layers=1", "student.hidden_size=32", "student.num_heads=2")
# A target that the cache lacks ends the run instead of waiting for teachers.
IMPATIENT = ("teachers.connect_s=1", "teachers.patience_s=2")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found."""

    differences: list[Difference]
    served_deviation: float | None
    """Largest relative difference of a loss of the served run; None if there was none."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The two trees, and the folder with everything that they make."""

    base: Tree
    tree: Tree
    folder: Path

    def prepare(self, tree: Tree) -> Command:
        """Raw dialogues -> examples, vocabulary and graphs."""
        source = ("--source", "synthetic", "--dialogues", str(NUM_DIALOGUES))
        output = ("--output", str(self.data(tree)))
        return tree.module("prepare", "trainer.data", "prepare", *source, *output)

    def data(self, tree: Tree) -> Path:
        """The prepared corpus of a tree; both trees train on BASE's."""
        return self.folder / f"data-{tree.name}"

    def encode(self, tree: Tree) -> Command:
        """Fixed rows -> reply blocks."""
        return tree.script("blocks", HERE / "probe.py", str(self.blocks(tree)))

    def blocks(self, tree: Tree) -> Path:
        """The reply blocks of a tree."""
        return self.folder / f"blocks-{tree.name}"

    def fit(self, kind: str, *overrides: str) -> Command:
        """One of BASE's teachers."""
        config = ("--config", f"trainer/configs/pretrain/{kind}-synthetic.yaml")
        argv = ("trainer.pretrain", kind, *config, "--output", str(self.folder / kind))
        return self.base.module(f"fit {kind}", *argv, f"data={self.data(self.base)}", *overrides)

    def up(self, tree: Tree, port: int) -> Command:
        """Serve BASE's teachers by the code of a tree."""
        kinds = ("dialogue", "recommendation")
        folders = [it for kind in kinds for it in (f"--{kind}", str(self.folder / kind))]
        fleet = ("--port", str(port), "--fleet", str(self.fleet(tree)))
        return tree.module("teachers up", "teacher_server", "up", *folders, *fleet)

    def down(self, tree: Tree) -> Command:
        """End what `up` has started."""
        fleet = ("--fleet", str(self.fleet(tree)))
        return tree.module("teachers down", "teacher_server", "down", *fleet)

    def fleet(self, tree: Tree) -> Path:
        """The file of a tree's fleet, which is there as long as the fleet is up."""
        return self.folder / f"fleet-{tree.name}.json"

    def build(self, port: int) -> Command:
        """The cache of all targets, from BASE's fleet."""
        argv = ("trainer.targets", "build", "--config", RECIPE, "--output", str(self.cache))
        data = f"data={self.data(self.base)}"
        return self.base.module("cache", *argv, data, f"teachers.directory=127.0.0.1:{port}")

    @property
    def cache(self) -> Path:
        """The one cache."""
        return self.folder / "cache"

    def train(self, tree: Tree, name: str, port: int, *overrides: str) -> Command:
        """The recipe into OUTPUT of that name; nothing listens at the port of a cached run."""
        folders = (f"data={self.data(self.base)}", f"output={self.output(tree, name)}")
        settings = (f"train.steps={STEPS}", f"teachers.directory=127.0.0.1:{port}", *overrides)
        return tree.student(f"{name} run", "--config", RECIPE, *folders, *TINY, *settings)

    def output(self, tree: Tree, name: str) -> Path:
        """The run directory of a tree."""
        return self.folder / f"{name}-{tree.name}"


def run_scene(scene: Scene, launcher: Launcher, *, with_served: bool) -> Outcome:
    """Run all stages and compare; no fleet is left up.

    Raises:
        CommandFailed: if a command of either tree fails.
    """
    trees = (scene.base, scene.tree)
    try:
        launcher.run(*([it.stubs(), scene.prepare(it), scene.encode(it)] for it in trees))
        launcher.run(
            [scene.fit("dialogue", *TINY, "train.steps=20")],
            [scene.fit("recommendation", "epochs=1")],
        )
        port = free_port()
        launcher.run([scene.up(scene.base, port), scene.build(port)])
        launcher.run(
            _cached_runs(scene),
            [scene.down(scene.base)],
            _served_run(scene) if with_served else (),
        )
    finally:
        left = [it for it in trees if scene.fleet(it).exists()]
        launcher.run(*([scene.down(it)] for it in left))
    return compare_scene(scene, with_served=with_served)


def _cached_runs(scene: Scene) -> list[Command]:
    cached = (f"teachers.cache={scene.cache}", *IMPATIENT)
    return [scene.train(it, "cached", free_port(), *cached) for it in (scene.base, scene.tree)]


def _served_run(scene: Scene) -> list[Command]:
    port = free_port()
    up, served = scene.up(scene.tree, port), scene.train(scene.tree, "served", port)
    return [up, served, scene.down(scene.tree)]


def compare_scene(scene: Scene, *, with_served: bool) -> Outcome:
    """Compare what both trees left in the folder."""
    base, tree = scene.base, scene.tree
    cached = [read_metrics(scene.output(it, "cached")) for it in (base, tree)]
    differences = [
        *compare_files("corpus", *(read_prepared(scene.data(it)) for it in (base, tree))),
        *compare_files("block", read_files(scene.blocks(base)), read_files(scene.blocks(tree))),
        *compare_metrics(*cached),
        *compare_files(
            "export",
            read_files(scene.output(base, "cached") / "model"),
            read_files(scene.output(tree, "cached") / "model"),
        ),
    ]
    if not with_served:
        return Outcome(differences=differences, served_deviation=None)
    served = read_metrics(scene.output(tree, "served"))
    return Outcome(
        differences=[*differences, *compare_served(cached[1], served)],
        served_deviation=largest_deviation(cached[1], served),
    )


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """All lines of a run."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def read_prepared(folder: Path) -> dict[str, bytes]:
    """The files of a prepared folder, but for the command in its manifest, which names the tree."""
    files = read_files(folder)
    manifest = json.loads(files[MANIFEST_NAME])
    manifest.pop("command", None)
    return {**files, MANIFEST_NAME: json.dumps(manifest).encode()}


def read_files(folder: Path) -> dict[str, bytes]:
    """All files of a folder by their path in it; FileNotFoundError if there are none."""
    paths = [it for it in sorted(folder.rglob("*")) if it.is_file()]
    if not paths:
        raise FileNotFoundError(f"{folder} must hold files to compare, got none.")
    return {str(it.relative_to(folder)): it.read_bytes() for it in paths}
