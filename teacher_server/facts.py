"""What every teacher is to the rest of the server: its facts, its input, its one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from protos.codec import TargetRows
from teacher_server.compress import Cut


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """What a teacher tells its callers, and what its inputs are checked against."""

    kind: Literal["dialogue", "recommendation"]
    vocab_size: int
    first_item_id: int
    num_items: int
    max_input_length: int
    vocabulary_digest: str
    weights_digest: str
    graph_digest: str = ""
    num_entities: int = 0
    num_words: int = 0
    """0: it takes no words."""
    max_words: int = 0
    temperature: float = 1.0

    @property
    def num_input_ids(self) -> int:
        """Input ids are below this: base tokens and items (no [REC], [GEN], pad), or entities."""
        return self.first_item_id + self.num_items if self.kind == "dialogue" else self.num_entities

    @property
    def support_size(self) -> int:
        """Entries of one whole row."""
        return self.vocab_size if self.kind == "dialogue" else self.num_items


@dataclass(frozen=True, eq=False)
class TeacherInput:
    """One example.

    Attributes:
        ids: int32 [L] tokens or entities.
        num_targets: rows wanted of it.
        words: int32 [K], for a teacher that takes them.
    """

    ids: np.ndarray
    num_targets: int
    words: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))


class Teacher(Protocol):
    """A pure function of its inputs: scoring the same input again gives the same rows."""

    facts: TeacherFacts

    def score(self, inputs: Sequence[TeacherInput], cut: Cut) -> TargetRows:
        """The wanted rows of each input, in the order of the inputs."""
        ...
