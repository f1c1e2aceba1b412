"""Teachers for experiments: one that replays recorded answers, one that takes its time.

A replayed answer is the same whatever batch it rides in, so two runs must have equal losses; and
as no two examples have the same rows, rows tell whose answer they are.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protos import codec
from protos.codec import TargetRows, concat_rows
from protos.target_rows import COLUMNS, ITEM_MASS
from protos.teacher_pb2 import Compression
from teacher_server.scoring.description import Teacher
from trainer.data.model_input import SequenceInput

Answers = Mapping[str, TargetRows]
"""Key of an input -> its rows, all of one cut."""
RECORD_BATCH = 32


class ReplayTeacher:
    """Answers from a table keyed by the input; the cut is the one of the table."""

    def __init__(self, teacher: Teacher, answers: Answers) -> None:
        self.description = teacher.description
        self._answers = answers

    def score(self, inputs: Sequence[SequenceInput], compression: Compression) -> TargetRows:
        """The recorded rows; ValueError for an input that was not recorded."""
        keys = [key_of(response) for each in inputs for response in each.responses()]
        missing = sum(key not in self._answers for key in keys)
        if missing:
            raise ValueError(f"every input must be recorded, got {missing} that are not.")
        return concat_rows([self._answers[key] for key in keys])


class PacedTeacher:
    """A teacher that takes so long per row as a large one on a device of its own would."""

    def __init__(self, teacher: Teacher, seconds_per_row: float) -> None:
        self.description = teacher.description
        self._teacher = teacher
        self._seconds_per_row = seconds_per_row

    def score(self, inputs: Sequence[SequenceInput], compression: Compression) -> TargetRows:
        """The teacher's rows, late."""
        time.sleep(self._seconds_per_row * sum(each.num_rows for each in inputs))
        return self._teacher.score(inputs, compression)


def record(
    teacher: Teacher, inputs: Sequence[SequenceInput], compression: Compression
) -> dict[str, TargetRows]:
    """The rows of every input; inputs of one length are scored together."""
    answers: dict[str, TargetRows] = {}
    by_length = sorted(inputs, key=lambda each: each.size)
    for start in range(0, len(by_length), RECORD_BATCH):
        batch = by_length[start : start + RECORD_BATCH]
        rows = teacher.score(batch, compression)
        answers |= zip(map(key_of, batch), rows.split([it.num_rows for it in batch]), strict=True)
    return answers


def key_of(each: SequenceInput) -> str:
    """A digest of all that a teacher is given of one response."""
    digest = hashlib.blake2b(digest_size=16)
    for column in (np.array([each.num_rows]), each.tokens, each.entities, each.words):
        digest.update(np.array([len(column)], "<i4").tobytes() + column.astype("<i4").tobytes())
    return digest.hexdigest()


def fingerprint(rows: TargetRows) -> str:
    """A digest of rows as a client holds them."""
    digest = hashlib.blake2b(digest_size=8)
    for array in rows.arrays.values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def over_the_wire(rows: TargetRows, values: int) -> TargetRows:
    """The rows as they arrive in a format of values."""
    block = codec.encode(rows, values)
    return codec.decode(block, num_rows=rows.num_rows, vocab_size=rows.vocab_size)


def save_answers(path: Path, answers: Answers) -> None:
    """Write a table as one .npz file."""
    rows = concat_rows(list(answers.values()))
    arrays: dict[str, Any] = rows.arrays
    np.savez(
        path,
        keys=np.array(list(answers), "S32"),
        num_rows=np.array([each.num_rows for each in answers.values()]),
        vocab_size=np.array(rows.vocab_size),
        **arrays,
    )


def load_answers(path: Path) -> dict[str, TargetRows]:
    """Read a table that save_answers wrote."""
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in COLUMNS}
        rows = TargetRows(
            vocab_size=int(file["vocab_size"]), masses={ITEM_MASS: file[ITEM_MASS]}, **columns
        )
        keys, counts = [key.decode() for key in file["keys"]], file["num_rows"]
    return dict(zip(keys, rows.split(counts), strict=True))
