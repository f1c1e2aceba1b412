"""The requests for one micro-batch to every teacher, of sizes that a server takes.

With a gate that closes, the dialogue rows are asked for first, of all dialogue teachers. They tell
lambda, and as soon as they are there the recommendation rows of the responses at which it is above
0 are asked for.
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
from trainer.kinds.asked import AskedTeacher, names_of
from trainer.kinds.names import DIALOGUE
from trainer.loss.needed_rows import needed_examples, waits_for_dialogue
from trainer.teacher_client.answers import Answers
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.request_parts import split_into_requests
from trainer.telemetry.client_counters import ClientCounters

Inputs = Mapping[str, Sequence[SequenceInput]]
"""Name of a teacher -> what it is sent of each example."""


class TargetRequests:
    """Asks about micro-batches; all but `inputs` lives on the client's event loop."""

    def __init__(
        self,
        answers: Answers,
        teachers: Mapping[str, AskedTeacher],
        described: Mapping[str, teacher_pb2.Description],
        expected: Mapping[str, ExpectedRows],
        distill: DistillConfig,
        *,
        counters: ClientCounters,
        asks_all: bool = False,
    ) -> None:
        """Requests to a fleet.

        Args:
            answers: where rows come from.
            teachers: that are asked, by name.
            described: the latest Description per name; changes as replicas are met.
            expected: what is asked of each of them.
            distill: the gate, and how the dialogue teachers are mixed.
            counters: counts the rows that are not asked for.
            asks_all: ask for all rows at once, whatever the gate needs.
        """
        self._answers = answers
        self._teachers = teachers
        self._described = described
        self._expected = expected
        self._distill = distill
        self._counters = counters
        self._dialogue = names_of(DIALOGUE, teachers)
        self._waiting = {
            name
            for name, it in teachers.items()
            if not asks_all and self._dialogue and waits_for_dialogue(it.kind, distill)
        }

    def inputs(self, examples: Sequence[Example], temperature: float = 1.0) -> Inputs:
        """What every teacher is sent of the examples; for the caller's own thread."""
        limits = {name: InputLimits.of(self._described[name]) for name in self._teachers}
        return {
            name: [
                replace(it.kind.to_input(example, limits[name]), temperature=temperature)
                for example in examples
            ]
            for name, it in self._teachers.items()
        }

    async def targets(self, inputs: Inputs) -> Targets:
        """What the teachers say about the examples of a micro-batch.

        Rows per example that the gate gives no weight are absent.
        """
        coming = {
            name: asyncio.ensure_future(self._rows(name, of_name))
            for name, of_name in inputs.items()
            if name not in self._waiting
        }
        dialogue = {name: coming[name] for name in self._dialogue}
        for name in self._waiting:
            later = self._needed_rows(name, inputs, dialogue)
            coming[name] = asyncio.ensure_future(later)
        received = await asyncio.gather(*(coming[name] for name in inputs))
        return dict(zip(inputs, received, strict=True))

    async def _needed_rows(
        self, name: str, inputs: Inputs, dialogue: Mapping[str, Awaitable[TargetRows]]
    ) -> TargetRows:
        """The rows of the examples that need one; the others are absent."""
        of_name, lengths_B = inputs[name], [it.num_rows for it in inputs[self._dialogue[0]]]
        received = await asyncio.gather(*dialogue.values())
        rows_of = dict(zip(dialogue, received, strict=True))
        needed = needed_examples(self._teachers[name].kind, rows_of, lengths_B, self._distill)
        self._counters.spared_rows += len(of_name) - len(needed)
        if not len(needed):
            return no_rows(self._expected[name].vocab_size).spread(needed, len(of_name))
        rows = await self._rows(name, [of_name[index] for index in needed])
        return rows.spread(needed, len(of_name))

    async def _rows(self, name: str, inputs: Sequence[SequenceInput]) -> TargetRows:
        expected = self._expected[name]
        parts = split_into_requests(
            inputs,
            max_row_entries=expected.max_entries,
            samples=expected.compression.samples,
        )
        received = await asyncio.gather(*(self._answers.rows(name, part) for part in parts))
        return received[0] if len(received) == 1 else concat_rows(received)
