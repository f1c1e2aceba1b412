"""A client's requests and their replies, metered in one process instead of sent.

The client's own code asks; where it would send a request, the request is counted, checked as a
replica does, scored by a frozen teacher, encoded, counted again and decoded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from protos import codec, teacher_pb2
from protos.codec import TargetRows
from protos.target_rows import Targets
from teacher_server.replica.request_check import RequestCheck, RequestLimits
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.device_batches import BatchLimits, score_together
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.asked import asked_teachers
from trainer.kinds.table import TEACHER_KINDS
from trainer.kinds.teacher_kind import TeacherKind
from trainer.teacher_client.answers import Answers
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.run_id import new_run_id
from trainer.teacher_client.target_requests import TargetRequests
from trainer.telemetry.client_counters import ClientCounters

HTTP2_FRAME_BYTES = 16_384


def header_bytes(message: Message) -> int:
    """What gRPC adds to a message: its prefix of 5 bytes, and HTTP/2's 9 for each frame."""
    frames = -(-(message.ByteSize() + 5) // HTTP2_FRAME_BYTES)
    return 5 + 9 * frames


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and its reply, in bytes of their messages; headers are those of both."""

    kind: str
    num_rows: int
    request_bytes: int
    reply_bytes: int
    header_bytes: int


class MeteredFleet:
    """Scores requests in this process, and notes the bytes of what would be sent."""

    def __init__(
        self, teachers: Mapping[str, Teacher], expected: Mapping[str, ExpectedRows]
    ) -> None:
        self.exchanges: list[Exchange] = []
        self._teachers = teachers
        self._expected = expected
        self._checks = {
            name: RequestCheck(it.description, RequestLimits()) for name, it in teachers.items()
        }

    async def score(
        self, teacher: str, message: teacher_pb2.ScoreRequest, num_rows: int
    ) -> TargetRows:
        """The rows of a request, as the client would decode them."""
        work = self._checks[teacher](message)
        (rows,) = score_together(self._teachers[teacher].score, [work], BatchLimits())
        reply = reply_of(codec.encode(rows, message.compression.values))
        self.exchanges.append(
            Exchange(
                kind=self._teachers[teacher].description.kind,
                num_rows=num_rows,
                request_bytes=message.ByteSize(),
                reply_bytes=reply.ByteSize(),
                header_bytes=header_bytes(message) + header_bytes(reply),
            )
        )
        return self._expected[teacher].decode(reply.block, num_rows, message.temperature or 1.0)


def reply_of(block: bytes) -> teacher_pb2.ScoreReply:
    """The message of a block, as long as in the middle of a long run."""
    return teacher_pb2.ScoreReply(request_id=1 << 20, block=block, queue_s=0.01, forward_s=0.1)


def ask_metered(
    micro_batches: Iterable[Sequence[Example]],
    teachers: Mapping[str, Teacher],
    *,
    distill: DistillConfig,
    vocabulary: Vocabulary,
    seed: int = 0,
    kinds: Mapping[str, TeacherKind] = TEACHER_KINDS,
    asks_all: bool = False,
) -> tuple[list[Targets], list[Exchange]]:
    """The targets of micro-batches as a client hands them out, and what it sends and gets for them.

    `teachers`: by name, or by kind where `distill` names none of it.
    `asks_all`: also the rows that the gate gives no weight.
    """
    asked = asked_teachers(distill, kinds)
    expected = {
        name: ExpectedRows.of(it.kind, distill, vocabulary, seed) for name, it in asked.items()
    }
    described = {name: teachers[name].description for name in asked}
    fleet = MeteredFleet(teachers, expected)
    compressions = {name: it.compression for name, it in expected.items()}
    run_id = new_run_id("client")
    answers = Answers(fleet, described, compressions, cached=None, spans=None, run_id=run_id)
    requests = TargetRequests(
        answers, asked, described, expected, distill, counters=ClientCounters(), asks_all=asks_all
    )

    async def ask() -> list[Targets]:
        inputs = (requests.inputs(each, distill.temperature) for each in micro_batches)
        return [await requests.targets(each) for each in inputs]

    return asyncio.run(ask()), fleet.exchanges
