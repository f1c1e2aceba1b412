"""Digests of the code that a cell is computed by: another digest, another cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from protos.fingerprint import digest_strings
from trainer.common.errors import InputError
from trainer.common.text_files import read_json_object

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "teacher_pb2"
TRAINING = (
    *("protos", "trainer/data", "trainer/kinds", "trainer/models", "trainer/loss"),
    *("trainer/engine", "teacher_server/scoring"),
    *("trainer/train.py", "trainer/lookahead.py", "trainer/selection.py"),
)
"""What makes a student of data, teachers and settings; settings are compared by their values."""
ANSWERING = ("actions", "answering", "decoding", "generate", "likelihood", "loaded_model")
SCORING = (
    "trainer/scoring",
    *(f"trainer/evaluation/{name}.py" for name in (*ANSWERING, "responders", "response_run")),
)
"""What makes scores of a student."""
SAME_NAME = "same.json"
"""Beside the cells: lists of digests of code that was found to compute the same: training by `make
same-loss`, scoring by the scores of one system's records."""


@dataclass(frozen=True, kw_only=True)
class Revision:
    """The code of a cell, by digest."""

    training: str
    scoring: str

    @classmethod
    def of_this_code(cls, root: Path = ROOT) -> Revision:
        """Of the code that runs."""
        return cls(training=_digest(root, TRAINING), scoring=_digest(root, SCORING))


class SameRevisions:
    """Which digests stand for code that computes the same."""

    def __init__(self, groups: Iterable[Iterable[str]]) -> None:
        self._groups = [frozenset(group) for group in groups]

    @classmethod
    def beside(cls, cells: Path) -> SameRevisions:
        """As `same.json` beside the cells lists them; InputError if it is broken."""
        path = cells / SAME_NAME
        if not path.is_file():
            return cls([])
        content = read_json_object(path)
        groups = content.get("same")
        if not isinstance(groups, list) or not all(_is_group(group) for group in groups):
            raise InputError(
                f'{path} must hold {{"same": [[DIGEST, DIGEST], ...]}}, got {groups!r:.60}. '
                "Mend it, or remove it."
            )
        return cls(groups)

    def are(self, one: str, two: str) -> bool:
        """Whether two digests are equal, or listed as the same."""
        return one == two or any(one in group and two in group for group in self._groups)

    def difference(self, found: Revision, wanted: Revision) -> str | None:
        """What differs, in words; None if both compute the same."""
        for part, one, two in _parts(found, wanted):
            if not self.are(one, two):
                return f"{part} code {two[:12]}, got {one[:12]}"
        return None


def _parts(found: Revision, wanted: Revision) -> Iterator[tuple[str, str, str]]:
    yield "training", found.training, wanted.training
    yield "scoring", found.scoring, wanted.scoring


def _is_group(group: object) -> bool:
    return isinstance(group, list) and all(isinstance(it, str) for it in group)


def _digest(root: Path, places: Iterable[str]) -> str:
    """Of all sources there, by their paths."""
    paths: Mapping[str, Path] = {
        path.relative_to(root).as_posix(): path
        for place in places
        for path in ([root / place] if place.endswith(".py") else (root / place).rglob("*.py"))
        if not path.name.startswith(GENERATED)
    }
    names = sorted(paths)
    return digest_strings(names, [paths[name].read_text(encoding="utf-8") for name in names])
