"""Input of the benchmarks: prepared dialogues and the teachers fitted on them, made once."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.launch.launcher import Launcher
from cluster.launch.machine import this_machine
from cluster.stages import Demo
from trainer.common.atomic import write_json, write_text
from trainer.data.examples import Example, read_examples
from trainer.data.manifest import MANIFEST_NAME
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.models.frozen import CARD_NAME

FOLDER = Path("bench/teachers")
# In the order in which they are fitted.
KINDS = (RECOMMENDATION, DIALOGUE)
# As in the recipes: 32 examples a step on two ranks.
EXAMPLES_PER_REQUEST = 16


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus and its frozen teachers, as folders."""

    name: str
    data: Path
    dialogue: Path
    recommendation: Path
    recipe: Path
    """Of students on these dialogues, relative to the repository's root."""

    @property
    def folders(self) -> dict[str, Path]:
        """The frozen teacher of each kind."""
        return {DIALOGUE: self.dialogue, RECOMMENDATION: self.recommendation}

    def examples(self, split: str) -> list[Example]:
        """The prepared examples of a split, in their order on disk."""
        return read_examples(self.data / f"{split}.jsonl")


@dataclass(frozen=True, kw_only=True)
class Dialogues:
    """One corpus, prepared, without teachers."""

    name: str
    data: Path
    recipe: Path
    """Of students on these dialogues, relative to the repository's root."""


def prepared_dialogues(source: Path | None) -> Dialogues:
    """The dialogues at `source` (None: the synthetic ones), prepared once; nothing is fitted."""
    demo = _demo(source)
    if not (demo.output / "data" / MANIFEST_NAME).exists():
        with Launcher(demo.output / "logs", screen=sys.stderr) as launcher:
            launcher.run([demo.prepare()])
    return Dialogues(
        name=demo.output.name,
        data=demo.output / "data",
        recipe=Path(f"trainer/configs/{demo.recipe}.yaml"),
    )


def fitted_corpus(source: Path | None) -> Corpus:
    """The dialogues at `source` (None: the synthetic ones), prepared, and both teachers fitted.

    Kept in bench/teachers/ under the folder's name, and used again while they are there.
    """
    demo = _demo(source)
    if _missing_kinds(demo):
        option = f" --data {source}" if source else ""
        sys.stderr.write(
            f"{demo.output} must hold fitted teachers, got none: fitting them first, which takes "
            f"minutes. `python -m cluster.bench teachers{option}` does it once.\n"
        )
    return fit_teachers(source)


def fit_teachers(source: Path | None) -> Corpus:
    """The same without the note: prepare, and fit the teachers that are missing."""
    demo = _demo(source)
    if missing := _missing_kinds(demo):
        with Launcher(demo.output / "logs", screen=sys.stderr) as launcher:
            launcher.run([demo.prepare(), *(demo.pretrain(kind) for kind in missing)])
    return Corpus(
        name=demo.output.name,
        data=demo.output / "data",
        dialogue=demo.output / DIALOGUE,
        recommendation=demo.output / RECOMMENDATION,
        recipe=Path(f"trainer/configs/{demo.recipe}.yaml"),
    )


def _demo(source: Path | None) -> Demo:
    # Stages run in the repository's root, whatever the folder is relative to.
    source = source.resolve() if source else None
    name = source.name if source else "synthetic"
    return Demo(source=source, output=FOLDER / name, machine=this_machine())


def _missing_kinds(demo: Demo) -> list[str]:
    return [kind for kind in KINDS if not (demo.output / kind / CARD_NAME).exists()]


def first_examples(data: Path, number: int, output: Path) -> Path:
    """A copy of prepared data with the first training examples alone; returns output."""
    shutil.copytree(data, output)
    with (data / "train.jsonl").open(encoding="utf-8") as file:
        write_text(output / "train.jsonl", "".join(itertools.islice(file, number)))
    manifest = json.loads((data / MANIFEST_NAME).read_text())
    manifest["splits"]["train"]["responses"] = len(read_examples(output / "train.jsonl"))
    write_json(output / MANIFEST_NAME, manifest)
    return output


def requests(examples: list[Example]) -> list[list[Example]]:
    """Split examples into requests of the size that a student sends; the last may be shorter."""
    size = EXAMPLES_PER_REQUEST
    return [examples[start : start + size] for start in range(0, len(examples), size)]
