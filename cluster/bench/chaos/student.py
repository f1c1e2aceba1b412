"""`trainer/main.py` on one rank, with a witness between the step and the teacher client.

python -m cluster.bench.chaos.student --witness FILE --config FILE [key=value ...]

FILE gets a line of JSON for every batch that is submitted and for every one whose targets are
handed out to the student, which mixes them ahead of their step.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import numpy as np

from cluster.bench.chaos.evidence import example_fingerprint
from protos.target_rows import Targets
from trainer.common.cli import run_main
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits
from trainer.kinds.teacher_kind import TeacherKind
from trainer.main import parse
from trainer.student_run import checked_input, run_student
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.subset import Caller


class Witness:
    """The client's own interface (trainer.lookahead.Teachers), and a record of what crosses it."""

    def __init__(self, client: TeacherClient, file: TextIO) -> None:
        self.counters = client.counters
        self._client = client
        self._file = file
        self._submitted = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="witness")
        self._writing = threading.Lock()

    @property
    def kinds(self) -> Mapping[str, TeacherKind]:
        """The client's."""
        return self._client.kinds

    @property
    def identity(self) -> dict[str, str]:
        """The client's."""
        return self._client.identity

    @property
    def limits(self) -> Mapping[str, InputLimits]:
        """The client's."""
        return self._client.limits

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        """Note what is requested, and request it."""
        batch, self._submitted = self._submitted, self._submitted + 1
        self.note({"submitted": batch, "examples": [example.example_id for example in examples]})
        lengths = [len(example.response_ids) for example in examples]
        received = self._client.submit(examples, temperature)
        return self._worker.submit(self._take, batch, lengths, received)

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
        self._worker.shutdown()

    def _take(self, batch: int, lengths: list[int], received: Future[Targets]) -> Targets:
        """Wait for targets, and note that they are handed out, each example by its fingerprint.

        In one thread, so that batches are handed out in the order of submission.
        """
        targets = received.result()
        ends = np.cumsum(lengths)
        starts = [0, *ends[:-1]]
        fingerprints = [
            example_fingerprint(targets, range(start, end), example)
            for example, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        self.note({"handed_out": batch, "rows": sum(lengths), "fingerprints": fingerprints})
        return targets

    def note(self, entry: dict[str, object]) -> None:
        """Write one line, at once."""
        with self._writing:
            self._file.write(json.dumps({"at_s": time.monotonic(), **entry}) + "\n")
            self._file.flush()


def main(argv: list[str]) -> None:
    """Take our option, and give the rest to the trainer's own parser."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--witness", type=Path, required=True)
    arguments, rest = parser.parse_known_args(argv)
    config, data = checked_input(parse(rest))
    with arguments.witness.open("w") as file:
        run_student(
            config,
            data,
            lambda settled, run_id: Witness(
                TeacherClient(
                    config.teachers,
                    config.distill,
                    vocabulary=data.vocabulary,
                    graph_digest=data.graphs_digest,
                    settled=settled,
                    caller=Caller(run=run_id),
                ),
                file,
            ),
        )


if __name__ == "__main__":
    run_main(main)
