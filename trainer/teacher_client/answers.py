"""The rows of examples: from the cache of targets where it has them, else from the fleet."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, TypedDict, cast

import numpy as np

from protos import teacher_pb2
from protos.codec import TargetRows
from trainer.common.errors import InputError
from trainer.data.model_input import InputLimits, SequenceInput, merge_sequences
from trainer.target_cache.answers import CachedAnswers
from trainer.target_cache.keys import Group, RequestKeys, sent_columns
from trainer.telemetry.spans import Spans


class Scorer(Protocol):
    """Sends requests: the dispatcher, or a stand-in that measures them."""

    async def score(
        self, teacher: str, message: teacher_pb2.ScoreRequest, num_rows: int
    ) -> TargetRows:
        """The rows of one request."""
        ...


class Answers:
    """Where rows come from; lives on the client's event loop."""

    def __init__(
        self,
        scorer: Scorer,
        described: Mapping[str, teacher_pb2.Description],
        compressions: Mapping[str, teacher_pb2.Compression],
        *,
        cached: CachedAnswers | None,
        spans: Spans | None,
        run_id: str = "",
        priority: Literal["normal", "low"] = "normal",
    ) -> None:
        """Answers of a fleet.

        Args:
            scorer: sends requests to it.
            described: the latest Description per teacher; changes as replicas are met.
            compressions: what is asked of each teacher.
            cached: what was received before, and takes what is received now; None: no cache.
            spans: gets one per part of a micro-batch and teacher; None: none are made.
            run_id: whose share of the teachers is used; empty: one of this client alone.
            priority: of all requests.
        """
        self._scorer = scorer
        self._described = described
        self._compressions = compressions
        self._cached = cached
        self._spans = spans
        self._run_id = run_id
        self._priority = teacher_pb2.LOW if priority == "low" else teacher_pb2.NORMAL
        self._ids = itertools.count(1)

    async def rows(self, teacher: str, inputs: Sequence[SequenceInput]) -> TargetRows:
        """A teacher's rows of all inputs, of one temperature, one example after another."""
        if self._spans is None:
            return await self._look_up(teacher, inputs)
        kind = self._described[teacher].kind
        span = self._spans.start("targets", kind=kind, examples=len(inputs))
        outcome = "failed"
        try:
            rows = await self._look_up(teacher, inputs, span.traceparent)
            outcome = "rows"
            return rows
        finally:
            span.end(outcome)

    async def _look_up(
        self, teacher: str, inputs: Sequence[SequenceInput], traceparent: str = ""
    ) -> TargetRows:
        # Looked up once: the key must be of the very columns that are sent.
        described = self._described[teacher]
        limits = InputLimits.of(described)
        if self._cached is None:
            return await self._score(teacher, inputs, limits, traceparent)
        keys = RequestKeys(
            Group.of(described, self._compressions[teacher], temperature=inputs[0].temperature)
        )
        return await self._cached.answer(
            keys, inputs, lambda missing: self._score(teacher, missing, limits, traceparent)
        )

    async def _score(
        self, teacher: str, inputs: Sequence[SequenceInput], limits: InputLimits, traceparent: str
    ) -> TargetRows:
        sequences = merge_sequences(inputs) if limits.takes_ranges else inputs
        message = teacher_pb2.ScoreRequest(
            request_id=next(self._ids),
            compression=self._compressions[teacher],
            # Of all of them; 1 is not sent.
            temperature=inputs[0].temperature if inputs[0].temperature != 1.0 else 0.0,
            traceparent=traceparent.encode("ascii"),
            run_id=self._run_id,
            priority=self._priority,
            **fields_of(sequences, limits),
        )
        num_rows = sum(each.num_rows for each in inputs)
        try:
            return await self._scorer.score(teacher, message, num_rows)
        except InputError:
            if all(len(each.ranges) == 1 for each in sequences):
                raise
        # A replica without ranges came meanwhile, got this request from before, and may be gone
        # again: the same rows are asked for as any replica takes them.
        without = replace(limits, takes_ranges=False)
        return await self._score(teacher, inputs, without, traceparent)


class SequenceFields(TypedDict, total=False):
    """The fields of a ScoreRequest that hold its sequences and the rows wanted of them."""

    token_ids: bytes
    token_lengths: bytes
    entity_ids: bytes
    entity_lengths: bytes
    word_ids: bytes
    word_lengths: bytes
    range_counts: bytes
    range_starts: bytes
    range_lengths: bytes


def fields_of(sequences: Sequence[SequenceInput], limits: InputLimits) -> SequenceFields:
    """What a request says of sequences, in the columns that the teacher takes."""
    columns: dict[str, list[np.ndarray]] = {}
    for each in sequences:
        for name, ids in sent_columns(each, limits):
            columns.setdefault(name, []).append(ids)
    fields: dict[str, bytes] = {}
    for name, rows in columns.items():
        fields[f"{name}_ids"] = np.concatenate(rows).tobytes()
        fields[f"{name}_lengths"] = _int32([len(ids) for ids in rows])
    ranges = [wanted for each in sequences for wanted in each.ranges]
    fields["range_counts"] = _int32([len(each.ranges) for each in sequences])
    fields["range_starts"] = _int32([wanted.start for wanted in ranges])
    fields["range_lengths"] = _int32([wanted.length for wanted in ranges])
    return cast(SequenceFields, fields)


def _int32(values: Sequence[int]) -> bytes:
    return np.array(values, "<i4").tobytes()
