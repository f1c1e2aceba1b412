"""`trainer/main.py` on one rank, with a witness between the step and the teacher client.

python -m cluster.bench.chaos.student --witness FILE --config FILE [key=value ...]

FILE gets a line of JSON for every batch that is submitted and for every one whose targets are
handed out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TextIO, TypeVar

import numpy as np

from cluster.bench.chaos.evidence import example_fingerprint
from protos.target_rows import TeacherTargets
from trainer.common.cli import run_main
from trainer.data.examples import Example
from trainer.main import checked_input, run_student
from trainer.teacher_client.client import Pending, TeacherClient

ResultT = TypeVar("ResultT")
PreparedT = TypeVar("PreparedT")


class Witness:
    """The client's own interface (trainer.lookahead.Teachers), and a record of what crosses it."""

    def __init__(self, client: TeacherClient, file: TextIO) -> None:
        self.counters = client.counters
        self._client = client
        self._file = file
        self._submitted = 0

    @property
    def identity(self) -> dict[str, str]:
        """The client's."""
        return self._client.identity

    @property
    def max_tokens(self) -> int | None:
        """The client's."""
        return self._client.max_tokens

    def submit(self, examples: Sequence[Example]) -> WitnessedPending[TeacherTargets]:
        """Note what is requested, and request it."""
        batch, self._submitted = self._submitted, self._submitted + 1
        self.note({"submitted": batch, "examples": [example.example_id for example in examples]})
        lengths = [len(example.response_ids) for example in examples]
        # The rows come through beside whatever is made of them.
        both = self._client.submit(examples).then(lambda targets: (targets, targets))
        return WitnessedPending(both, self, batch, lengths)

    def close(self) -> None:
        """Note the client's own counts, and close it."""
        counters = self.counters
        self.note(
            {
                "positions": counters.positions,
                "resends": counters.resends,
                "hedges": counters.hedges,
            }
        )
        self._client.close()

    def note(self, entry: dict[str, object]) -> None:
        """Write one line, at once."""
        self._file.write(json.dumps({"at_s": time.monotonic(), **entry}) + "\n")
        self._file.flush()


class WitnessedPending(Generic[ResultT]):
    """Targets on their way; handing them out is noted with a fingerprint per example."""

    def __init__(
        self,
        pending: Pending[tuple[TeacherTargets, ResultT]],
        witness: Witness,
        batch: int,
        lengths: list[int],
    ) -> None:
        self._pending = pending
        self._witness = witness
        self._batch = batch
        self._lengths = lengths

    def then(self, prepare: Callable[[ResultT], PreparedT]) -> WitnessedPending[PreparedT]:
        """As the client does."""
        pending = self._pending.then(lambda both: (both[0], prepare(both[1])))
        return WitnessedPending(pending, self._witness, self._batch, self._lengths)

    def result(self) -> ResultT:
        """Wait as the client does."""
        targets, taken = self._pending.result()
        ends = np.cumsum(self._lengths)
        starts = [0, *ends[:-1]]
        fingerprints = [
            example_fingerprint(targets, range(start, end), example)
            for example, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        rows = targets.dialogue.num_rows
        self._witness.note({"handed_out": self._batch, "rows": rows, "fingerprints": fingerprints})
        return taken


def main(argv: list[str]) -> None:
    """Take our option, and give the rest to the trainer's own parser."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--witness", type=Path, required=True)
    arguments, rest = parser.parse_known_args(argv)
    config, data = checked_input(rest)
    with arguments.witness.open("w") as file:
        run_student(
            config,
            data,
            lambda: Witness(
                TeacherClient(
                    config.teachers,
                    config.distill,
                    vocabulary=data.vocabulary,
                    graph_digest=data.graphs_digest,
                ),
                file,
            ),
        )


if __name__ == "__main__":
    run_main(main)
