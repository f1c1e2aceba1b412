"""What benchmarks measure on: prepared dialogues and the teachers fitted on them, made once."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.launch import Launcher
from cluster.stages import Demo, this_machine
from trainer.atomic import write_json, write_text
from trainer.data.examples import Example, read_examples
from trainer.data.prepare import MANIFEST_NAME
from trainer.models.frozen import CARD_NAME

FOLDER = Path("bench/teachers")
# Requests as the recipes make them: 32 examples a step on two ranks.
EXAMPLES_PER_REQUEST = 16


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus and its frozen teachers, as folders."""

    name: str
    data: Path
    dialogue: Path
    recommendation: Path

    def examples(self, split: str) -> list[Example]:
        """The prepared examples of a split, in their order on disk."""
        return read_examples(self.data / f"{split}.jsonl")


def fitted_corpus(source: Path | None) -> Corpus:
    """The dialogues at `source` (None: the synthetic ones), prepared, and both teachers fitted.

    Kept in bench/teachers/, and used again while it is there: the fit takes minutes.
    """
    recipe = Demo(source=source, output=FOLDER, machine=this_machine()).recipe
    demo = Demo(source=source, output=FOLDER / recipe, machine=this_machine())
    corpus = Corpus(
        name=recipe,
        data=demo.output / "data",
        dialogue=demo.output / "dialogue",
        recommendation=demo.output / "recommendation",
    )
    if not all((path / CARD_NAME).exists() for path in (corpus.dialogue, corpus.recommendation)):
        with Launcher(demo.output / "logs", screen=sys.stderr) as launcher:
            kinds = ("recommendation", "dialogue")
            launcher.run([demo.prepare(), *(demo.pretrain(kind) for kind in kinds)])
    return corpus


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
    """The examples in the groups in which a student asks for them; the last may be short."""
    size = EXAMPLES_PER_REQUEST
    return [examples[start : start + size] for start in range(0, len(examples), size)]
