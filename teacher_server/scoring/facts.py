"""What every teacher is to the rest of the server: its facts and its one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protos.codec import TargetRows
from teacher_server.scoring.compress import Cut
from trainer.data.model_input import ExampleInput, InputLimits


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """What a teacher tells its callers, and what its inputs are checked against."""

    kind: str
    vocab_size: int
    support_size: int
    """Entries of one whole row."""
    first_item_id: int
    num_items: int
    limits: InputLimits
    vocabulary_digest: str
    weights_digest: str
    graph_digest: str = ""
    num_entities: int = 0
    """Entity ids are below this."""
    num_words: int = 0
    """Word ids are below this."""
    temperature: float = 1.0

    @property
    def num_tokens(self) -> int:
        """Token ids are below this: base tokens and items, but no [REC], [GEN] and pad."""
        return self.first_item_id + self.num_items


class Teacher(Protocol):
    """A pure function of its inputs: scoring the same input again gives the same rows."""

    facts: TeacherFacts

    def score(self, inputs: Sequence[ExampleInput], cut: Cut) -> TargetRows:
        """The wanted rows of each input, in the order of the inputs."""
        ...
