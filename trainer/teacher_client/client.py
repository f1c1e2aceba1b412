"""Asks the served teachers for targets, ahead of the step that needs them.

One client lives in every rank. It watches the Directory and holds one Score stream to every
replica; `dispatch` decides which of them gets a request. Scoring is a pure function of its input,
so a request may be sent twice; its answer is taken once. Nothing here falls back: a request ends
with the rows asked for or with an error.

All gRPC runs on one event loop in a thread of its own, what is made of the answers (`Pending.then`)
in another; `submit` and `Pending.result` are called from the training thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from protos import codec, teacher_pb2
from protos.limits import MAX_DRAWS, MAX_REPLY_ENTRIES
from protos.target_rows import TeacherTargets, no_rows
from trainer.common.byte_budget import ByteBudget
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.data.model_input import ExampleInput, InputLimits, dialogue_input, recommendation_input
from trainer.data.vocabulary import Vocabulary
from trainer.loss.soft_targets import ENTRY_BYTES, ROW_BYTES
from trainer.target_cache.answers import CachedAnswers
from trainer.target_cache.keys import Group, Question, sent_columns
from trainer.target_cache.store import TargetCache
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.request_parts import split_question
from trainer.teacher_client.streams import TeacherStreams
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.spans import Spans

logger = logging.getLogger(__name__)

TO_INPUT = {"dialogue": dialogue_input, "recommendation": recommendation_input}
ResultT = TypeVar("ResultT")
PreparedT = TypeVar("PreparedT")


class Pending(Generic[ResultT]):
    """Targets that were asked for and may not have arrived yet, or what is made of them."""

    def __init__(
        self,
        answer: concurrent.futures.Future[ResultT],
        worker: concurrent.futures.Executor,
        on_taken: Callable[[], None],
    ) -> None:
        self._answer = answer
        self._worker = worker
        self._on_taken = on_taken

    def then(self, prepare: Callable[[ResultT], PreparedT]) -> Pending[PreparedT]:
        """What `prepare` makes of them on a thread of the client's, as soon as they are there.

        Its errors are raised by `result`. It is to be called in the order of the results: the
        thread waits for one after another.
        """
        answer = self._answer
        prepared = self._worker.submit(lambda: prepare(answer.result()))
        return Pending(prepared, self._worker, self._on_taken)

    def result(self) -> ResultT:
        """Wait for them; they are handed out once.

        Raises:
            TeacherUnavailable: a kind had no live replica for longer than `teachers.patience_s`.
            WireError: two answers to the same request were broken.
            ValueError: a replica refused the request, or serves another vocabulary.
        """
        taken = self._answer.result()
        self._on_taken()
        return taken


class TeacherClient:
    """submit(examples) -> Pending, over all live replicas of both kinds."""

    def __init__(
        self,
        config: TeachersConfig,
        distill: DistillConfig,
        *,
        vocabulary: Vocabulary,
        graph_digest: str,
        spans: Spans | None = None,
        keeps_all: bool = False,
    ) -> None:
        """Connect and wait until each kind that is asked has a replica of the right data.

        `spans` gets one for each question to a kind, and is closed with the client.
        `keeps_all`: no answer may pass the cache unwritten while it has room; rather they wait.
        With `teachers.cache`, a kind of which the Directory lists no replica, or without any
        Directory both, may be the one teacher of that kind whose targets are in the cache.

        Raises:
            TeacherUnavailable: nothing answers at `teachers.directory`, or a kind has no replica.
            ValueError: a replica serves another vocabulary or numbers entities differently; nothing
                protects the way to it; the files of `teachers.tls` or `token_file` are of no use.
        """
        self.counters = ClientCounters()
        self._spans = spans
        self._vocabulary = vocabulary
        self._asked = _compressions(distill)
        self._expected = {
            kind: ExpectedRows.of(kind, asked, vocabulary) for kind, asked in self._asked.items()
        }
        self._ids = itertools.count(1)
        self._budget = ByteBudget(config.max_bytes)
        self._cached: CachedAnswers | None = None
        self._unfinished: set[asyncio.Task[Any]] = set()
        self._without_room: set[asyncio.Task[Any]] = set()
        # First: it may refuse what it is given, and a thread would be left behind.
        self._streams = TeacherStreams(
            config, vocabulary, graph_digest, self._expected, self.counters
        )
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="targets")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="teacher-client", daemon=True
        )
        self._thread.start()
        try:
            cached = self._open_cache(config, graph_digest, keeps_all) if config.cache else {}
            self._run(self._streams.start(cached))
            self._streams.dispatcher.may_rest.update(self._asked)
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> dict[str, str]:
        """Kind -> weights digest and temperature of its replicas."""
        known = self._streams.identity
        return {kind: f"{digest} at temperature {t:g}" for kind, (digest, t) in known.items()}

    @property
    def max_tokens(self) -> int | None:
        """Longest input of one example that the dialogue teacher takes; None: it is not asked."""
        limits = self._streams.input_limits.get("dialogue")
        return None if limits is None else limits.max_tokens

    def submit(self, examples: Sequence[Example]) -> Pending[TeacherTargets]:
        """Ask the teachers that are needed about a micro-batch; returns at once.

        A question that is more than a server takes at a time is asked in parts: whole rows of a
        large vocabulary are 0.5 MB each.
        """
        parts = {
            kind: self._split(kind, [TO_INPUT[kind](it, limits) for it in examples])
            for kind, limits in self._streams.input_limits.items()
        }
        num_bytes = self._most_bytes(examples)
        answer = asyncio.run_coroutine_threadsafe(self._answer_both(parts, num_bytes), self._loop)
        return Pending(answer, self._worker, functools.partial(self._on_taken, num_bytes))

    def _split(self, kind: str, inputs: Sequence[ExampleInput]) -> list[list[ExampleInput]]:
        if samples := self._asked[kind].samples:
            # More than there are entries, if a support is small.
            return split_question(inputs, entries_per_row=samples, max_entries=MAX_DRAWS)
        entries = self._expected[kind].max_entries
        return split_question(inputs, entries_per_row=entries, max_entries=MAX_REPLY_ENTRIES)

    def close(self) -> None:
        """End all streams and the client's thread."""
        if self._thread.is_alive():
            self._run(self._stop())
            self._worker.shutdown()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            if self._cached is not None:
                self._cached.close()
            if self._spans is not None:
                self._spans.close()

    async def _stop(self) -> None:
        await self._streams.stop()
        # They wait for room that steps would have made which do not come any more.
        for task in self._without_room:
            task.cancel()
        await asyncio.gather(*self._unfinished, return_exceptions=True)

    def _open_cache(
        self, config: TeachersConfig, graph_digest: str, keeps_all: bool
    ) -> dict[str, teacher_pb2.Description]:
        """Open the cache; the teacher of each kind that its targets are of, if it is but one."""
        cache = TargetCache(Path(config.cache), max_bytes=config.cache_bytes)
        self._cached = CachedAnswers(cache, self.counters, waits_for_room=keeps_all)
        digests = {"vocabulary": self._vocabulary.digest, "graph": graph_digest}
        cached = {}
        for kind, compression in self._asked.items():
            groups = cache.known(kind, compression, **digests)
            if len(groups) == 1:
                cached[kind] = groups[0].description
            elif groups:
                # Which of them is meant only a replica can tell.
                weights = ", ".join(sorted(g.description.weights_digest for g in groups))
                logger.warning(
                    "%s has targets of %d %s teachers: %s", cache.folder, len(groups), kind, weights
                )
        return cached

    async def _answer_both(
        self,
        parts: Mapping[str, Sequence[Sequence[ExampleInput]]],
        num_bytes: int,
    ) -> TeacherTargets:
        """What both teachers say about a micro-batch, asked once there is room for it."""
        task = asyncio.current_task()
        assert task is not None
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        self._without_room.add(task)
        try:
            await self._budget.take(num_bytes)
        finally:
            self._without_room.discard(task)
        try:
            answers = await asyncio.gather(
                *(self._answer_parts(kind, of_kind) for kind, of_kind in parts.items())
            )
        except BaseException:
            self._budget.give(num_bytes)
            raise
        rows = dict(zip(parts, answers, strict=True))
        none = no_rows(self._vocabulary.size)
        return TeacherTargets(
            dialogue=rows.get("dialogue", none), recommendation=rows.get("recommendation", none)
        )

    async def _answer_parts(
        self, kind: str, parts: Sequence[Sequence[ExampleInput]]
    ) -> codec.TargetRows:
        answers = await asyncio.gather(*(self._answer(kind, part) for part in parts))
        return codec.concat_rows(answers)

    def _most_bytes(self, examples: Sequence[Example]) -> int:
        """Of the targets in memory, prepared, and every row as long as its cut allows."""
        num_rows = {
            "dialogue": sum(len(example.response_ids) for example in examples),
            "recommendation": len(examples),
        }
        return sum(
            num_rows[kind] * (ENTRY_BYTES * expected.max_entries + ROW_BYTES)
            for kind, expected in self._expected.items()
        )

    def _on_taken(self, num_bytes: int) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._budget.give, num_bytes)

    async def _answer(self, kind: str, inputs: Sequence[ExampleInput]) -> codec.TargetRows:
        """The rows of all inputs, and a span of how long they took."""
        if self._spans is None:
            return await self._look_up(kind, inputs)
        span = self._spans.start("targets", kind=kind, examples=len(inputs))
        outcome = "failed"
        try:
            rows = await self._look_up(kind, inputs, span.traceparent)
            outcome = "rows"
            return rows
        finally:
            span.end(outcome)

    async def _look_up(
        self, kind: str, inputs: Sequence[ExampleInput], traceparent: str = ""
    ) -> codec.TargetRows:
        """The rows of all inputs, from the cache where they are there."""
        # Looked up once: the key must be of the very columns that are sent.
        described = self._streams.described[kind]
        limits = InputLimits.of(described)
        if self._cached is None:
            return await self._score(kind, inputs, limits, traceparent)
        question = Question(Group.of(described, self._asked[kind]))
        return await self._cached.answer(
            question, inputs, lambda missing: self._score(kind, missing, limits, traceparent)
        )

    async def _score(
        self, kind: str, inputs: Sequence[ExampleInput], limits: InputLimits, traceparent: str
    ) -> codec.TargetRows:
        """The rows of all inputs, from the teachers."""
        columns: dict[str, list[np.ndarray]] = {}
        for each in inputs:
            for name, ids in sent_columns(each, limits):
                columns.setdefault(name, []).append(ids)
        fields: dict[str, bytes] = {}
        for name, rows in columns.items():
            fields[f"{name}_ids"] = np.concatenate(rows).tobytes()
            fields[f"{name}_lengths"] = np.array([len(r) for r in rows], "<i4").tobytes()
        targets = [each.num_targets for each in inputs]
        message = teacher_pb2.ScoreRequest(
            request_id=next(self._ids),
            target_lengths=np.array(targets, "<i4").tobytes(),
            compression=self._asked[kind],
            traceparent=traceparent.encode("ascii"),
            **fields,
        )
        return await self._streams.dispatcher.score(kind, message, sum(targets))

    def _run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _compressions(distill: DistillConfig) -> dict[str, teacher_pb2.Compression]:
    """How the rows of each kind that is asked are to be cut, or drawn."""
    values: Any = teacher_pb2.ValueFormat.Name(distill.value_format)  # type: ignore[arg-type]
    top_k, top_p = distill.recommendation_top_k, distill.recommendation_top_p
    if distill.tail == "sampled":
        asked = {
            "dialogue": teacher_pb2.Compression(samples=distill.top_k, values=values),
            "recommendation": teacher_pb2.Compression(samples=top_k, values=values),
        }
    else:
        asked = {
            "dialogue": teacher_pb2.Compression(top_k=distill.top_k, top_p=1.0, values=values),
            "recommendation": teacher_pb2.Compression(top_k=top_k, top_p=top_p, values=values),
        }
    return {kind: asked[kind] for kind in distill.kinds}
