"""What is asked about one micro-batch of every kind of teacher, in requests that a server takes.

With a gate that closes, the dialogue rows are asked for first. They tell lambda, and as soon as
they are there the recommendation rows of the responses at which it is above 0 are asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace

from protos import teacher_pb2
from protos.target_rows import TargetRows, Targets, concat_rows, no_rows
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits, SequenceInput
from trainer.kinds.names import DIALOGUE
from trainer.kinds.teacher_kind import TeacherKind
from trainer.loss.needed_rows import needed_examples, waits_for_dialogue
from trainer.teacher_client.answers import Answers
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.request_parts import split_into_requests
from trainer.telemetry.client_counters import ClientCounters

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
        distill: DistillConfig,
        *,
        counters: ClientCounters,
        asks_all: bool = False,
    ) -> None:
        """Questions to a fleet.

        Args:
            answers: where rows come from.
            kinds: the kinds that are asked.
            described: the latest Description per kind; changes as replicas are met.
            expected: what is asked of each kind.
            distill: the gate.
            counters: counts the rows that are not asked for.
            asks_all: ask for all rows at once, whatever the gate needs.
        """
        self._answers = answers
        self._kinds = kinds
        self._described = described
        self._expected = expected
        self._distill = distill
        self._counters = counters
        self._waiting = {
            name
            for name, kind in kinds.items()
            if not asks_all and DIALOGUE in kinds and waits_for_dialogue(kind, distill)
        }

    def inputs(self, examples: Sequence[Example], temperature: float = 1.0) -> Inputs:
        """What every kind is sent of the examples; for the caller's own thread."""
        limits = {kind: InputLimits.of(self._described[kind]) for kind in self._kinds}
        return {
            name: [
                replace(kind.to_input(example, limits[name]), temperature=temperature)
                for example in examples
            ]
            for name, kind in self._kinds.items()
        }

    async def targets(self, inputs: Inputs) -> Targets:
        """What the teachers say about the examples of a micro-batch.

        Rows per example that the gate gives no weight are absent.
        """
        coming = {
            kind: asyncio.ensure_future(self._rows(kind, of_kind))
            for kind, of_kind in inputs.items()
            if kind not in self._waiting
        }
        for kind in self._waiting:
            later = self._needed_rows(kind, inputs, coming[DIALOGUE])
            coming[kind] = asyncio.ensure_future(later)
        received = await asyncio.gather(*(coming[kind] for kind in inputs))
        return dict(zip(inputs, received, strict=True))

    async def _needed_rows(
        self, kind: str, inputs: Inputs, dialogue: Awaitable[TargetRows]
    ) -> TargetRows:
        """The rows of the examples that need one; the others are absent."""
        of_kind, lengths_B = inputs[kind], [each.num_rows for each in inputs[DIALOGUE]]
        needed = needed_examples(self._kinds[kind], await dialogue, lengths_B, self._distill)
        self._counters.spared_rows += len(of_kind) - len(needed)
        if not len(needed):
            return no_rows(self._expected[kind].vocab_size).spread(needed, len(of_kind))
        rows = await self._rows(kind, [of_kind[index] for index in needed])
        return rows.spread(needed, len(of_kind))

    async def _rows(self, kind: str, inputs: Sequence[SequenceInput]) -> TargetRows:
        expected = self._expected[kind]
        parts = split_into_requests(
            inputs,
            max_row_entries=expected.max_entries,
            samples=expected.compression.samples,
        )
        received = await asyncio.gather(*(self._answers.rows(kind, part) for part in parts))
        return received[0] if len(received) == 1 else concat_rows(received)
