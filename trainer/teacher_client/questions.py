"""What is asked about one micro-batch of every kind of teacher, in requests that a server takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from protos import teacher_pb2
from protos.target_rows import TargetRows, Targets, concat_rows
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits, SequenceInput
from trainer.kinds.teacher_kind import TeacherKind
from trainer.teacher_client.answers import Answers
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.request_parts import split_into_requests

Inputs = Mapping[str, Sequence[SequenceInput]]
"""Kind of teacher -> what it is sent of each example."""


class Questions:
    """Asks about micro-batches; all but `inputs` lives on the client's event loop."""

    def __init__(
        self,
        answers: Answers,
        kinds: Mapping[str, TeacherKind],
        described: Mapping[str, teacher_pb2.Description],
        expected: Mapping[str, ExpectedRows],
    ) -> None:
        """Questions to a fleet.

        Args:
            answers: where rows come from.
            kinds: the kinds that are asked.
            described: the latest Description per kind; changes as replicas are met.
            expected: what is asked of each kind.
        """
        self._answers = answers
        self._kinds = kinds
        self._described = described
        self._expected = expected

    def inputs(self, examples: Sequence[Example]) -> Inputs:
        """What every kind is sent of the examples; for the caller's own thread."""
        limits = {kind: InputLimits.of(self._described[kind]) for kind in self._kinds}
        return {
            name: [kind.to_input(example, limits[name]) for example in examples]
            for name, kind in self._kinds.items()
        }

    async def targets(self, inputs: Inputs) -> Targets:
        """What the teachers say about the examples of a micro-batch."""
        received = await asyncio.gather(*(self._rows(*each) for each in inputs.items()))
        return dict(zip(inputs, received, strict=True))

    async def _rows(self, kind: str, inputs: Sequence[SequenceInput]) -> TargetRows:
        expected = self._expected[kind]
        parts = split_into_requests(
            inputs,
            max_row_entries=expected.max_entries,
            samples=expected.compression.samples,
        )
        received = await asyncio.gather(*(self._answers.rows(kind, part) for part in parts))
        return received[0] if len(received) == 1 else concat_rows(received)
