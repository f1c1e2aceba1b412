"""A teacher of three lines, whose rows are known: for tests of everything around teachers."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from protos.codec import TargetRows
from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import Compression, Description
from protos.version import WIRE_VERSION
from teacher_server.scoring.compress import Support, compress
from teacher_server.scoring.teachers import asked_temperatures
from trainer.data.model_input import RANGES, SequenceInput

VOCAB = 12
DESCRIPTION = Description(
    kind="dialogue",
    wire_version=WIRE_VERSION,
    vocab_size=VOCAB,
    first_item_id=6,
    num_items=3,
    max_tokens=16,
    vocabulary_digest="vocabulary-a",
    weights_digest="weights-a",
    temperature=1.0,
    capabilities=[RANGES],
    masses=[ITEM_MASS],
    dtype="float32",
)


def described(base: Description = DESCRIPTION, /, **fields: str | float) -> Description:
    """A copy of a Description with other values of some fields."""
    description = Description()
    description.CopyFrom(base)
    for name, value in fields.items():
        setattr(description, name, value)
    return description


SUPPORT = Support(vocab_size=VOCAB, first_id=0, first_item_column=6, num_items=3)


class FakeTeacher:
    """The row after token t has the logits sin(t + 1), sin(2 (t + 1)), ..."""

    def __init__(self, description: Description = DESCRIPTION) -> None:
        self.description = description
        self.batches: list[list[int]] = []
        self.gate: threading.Event | None = None
        self.started = threading.Event()
        self.fails = False
        self.gives_nan = False
        self.fails_above: int | None = None

    def score(self, inputs: Sequence[SequenceInput], compression: Compression) -> TargetRows:
        self.started.set()
        if self.gate is not None:
            assert self.gate.wait(20)
        self.batches.append([len(example.tokens) for example in inputs])
        too_long = self.fails_above is not None and max(self.batches[-1]) > self.fails_above
        if self.fails or too_long:
            raise RuntimeError("out of memory")
        ids = [
            torch.from_numpy(each.tokens[wanted.start : wanted.end].copy())
            for each in inputs
            for wanted in each.ranges
        ]
        scores = rows_after(torch.cat(ids))
        return compress(
            scores * torch.nan if self.gives_nan else scores,
            compression,
            support=SUPPORT,
            asked_T=asked_temperatures(inputs),
        )


def rows_after(ids: torch.Tensor) -> torch.Tensor:
    return torch.sin((ids[:, None] + 1.0) * torch.arange(1.0, VOCAB + 1)).log_softmax(-1)
