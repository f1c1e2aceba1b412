"""The served teachers' answers, bit for bit, from teachers in the student's own process.

No server, no stream, no other process: a rank makes the requests that its client would send, and
checks, scores, encodes and decodes each of them itself. Each sequence is scored alone, as a fleet
of `up --deterministic` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import torch

from protos import codec, teacher_pb2
from protos.target_rows import TargetRows, Targets
from teacher_server.replica.request_check import RequestCheck, RequestLimits
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.determinism import ALONE
from teacher_server.scoring.device_batches import BatchLimits, score_together
from teacher_server.scoring.kinds import load_teacher
from trainer.config.run import RunConfig
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits
from trainer.data.prepared import PreparedData
from trainer.kinds.asked import asked_teachers
from trainer.kinds.table import asked_kinds, known_kinds
from trainer.teacher_client.answers import Answers
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.handshake import name_of
from trainer.teacher_client.target_requests import TargetRequests
from trainer.telemetry.client_counters import ClientCounters

LIMITS = BatchLimits(**ALONE)


class OwnScorer:
    """The whole way of a request but the wire."""

    def __init__(
        self, teachers: Mapping[str, Teacher], expected: Mapping[str, ExpectedRows]
    ) -> None:
        self._teachers = teachers
        self._expected = expected
        limits = RequestLimits()
        self._checks = {it: RequestCheck(teachers[it].description, limits) for it in teachers}

    async def score(
        self, teacher: str, message: teacher_pb2.ScoreRequest, num_rows: int
    ) -> TargetRows:
        """The rows of one request, scored at once."""
        work = self._checks[teacher](message)
        (rows,) = score_together(self._teachers[teacher].score, [work], LIMITS)
        block = codec.encode(rows, message.compression.values)
        return self._expected[teacher].decode(block, num_rows, message.temperature or 1.0)


class OwnTeachers:
    """One teacher of each kind, loaded into this process."""

    def __init__(self, folders: Mapping[str, Path], config: RunConfig, data: PreparedData) -> None:
        """Load the teachers that the run asks."""
        kinds = known_kinds(config)
        self.kinds = asked_kinds(config.distill, kinds)
        self.counters = ClientCounters()
        asked = asked_teachers(config.distill, kinds)
        device = torch.device("cpu")
        loaded = {name: load_teacher(name, folders[name], device) for name in asked}
        self._described = {name: it.description for name, it in loaded.items()}
        expected = {
            name: ExpectedRows.of(it.kind, config.distill, data.vocabulary, config.seed)
            for name, it in asked.items()
        }
        answers = Answers(
            OwnScorer(loaded, expected),
            self._described,
            {name: it.compression for name, it in expected.items()},
            cached=None,
            spans=None,
        )
        self._requests = TargetRequests(
            answers, asked, self._described, expected, config.distill, counters=self.counters
        )

    @property
    def identity(self) -> dict[str, str]:
        """Kind -> weights digest, dtype and temperature."""
        return {name: name_of(it) for name, it in self._described.items()}

    @property
    def limits(self) -> dict[str, InputLimits]:
        """Kind -> what its teacher takes of an example."""
        return {name: InputLimits.of(it) for name, it in self._described.items()}

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        """Score at once, on the training thread: nothing overlaps in one process."""
        answer: Future[Targets] = Future()
        inputs = self._requests.inputs(examples, temperature)
        answer.set_result(asyncio.run(self._requests.targets(inputs)))
        return answer

    def close(self) -> None:
        """Nothing is held."""
