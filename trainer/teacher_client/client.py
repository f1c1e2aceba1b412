"""Fetches targets from the served teachers, ahead of the step that needs them.

One client lives in every rank. It watches the Directory and holds a Score stream to each replica
of its subset; `dispatch` decides which of them gets a request. Scoring is a pure function of its
input, so a request may be sent twice; its answer is taken once. Nothing here falls back: a request
ends with the rows asked for or with an error.

All gRPC runs on one event loop in a thread of its own; `submit` is called from the training thread.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from protos import teacher_pb2
from protos.target_rows import Targets
from trainer.common.errors import TeacherUnavailable
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.names import DIALOGUE
from trainer.kinds.table import TEACHER_KINDS, asked_kinds
from trainer.kinds.teacher_kind import TeacherKind
from trainer.target_cache.answers import CachedAnswers
from trainer.target_cache.store import TargetCache
from trainer.teacher_client.answers import Answers
from trainer.teacher_client.cached_teachers import teachers_in_cache
from trainer.teacher_client.dispatch import Dispatcher
from trainer.teacher_client.expected_rows import ExpectedRows
from trainer.teacher_client.handshake import MetTeachers, name_of
from trainer.teacher_client.loop import Loop
from trainer.teacher_client.questions import Inputs, Questions
from trainer.teacher_client.streams import TeacherStreams
from trainer.teacher_client.subset import Caller
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.spans import Spans

logger = logging.getLogger(__name__)


class TeacherClient:
    """submit(examples) -> a future of their targets, over a subset of the replicas of each kind."""

    def __init__(
        self,
        config: TeachersConfig,
        distill: DistillConfig,
        *,
        vocabulary: Vocabulary,
        graph_digest: str,
        seed: int = 0,
        kinds: Mapping[str, TeacherKind] = TEACHER_KINDS,
        spans: Spans | None = None,
        keeps_all: bool = False,
        settled: Mapping[str, str] | None = None,
        asks_all: bool = False,
        caller: Caller | None = None,
    ) -> None:
        """Connect and wait until each kind that is asked has a replica of the right data.

        `seed`: of the run; sampled rows are drawn by it.
        `kinds`: the table of kinds; `distill` says which of them are asked.
        `spans` gets one for each request to a kind, and is closed with the client.
        `keeps_all`: no answer may pass the cache unwritten while it has room; rather they wait.
        `settled`: kind -> the `identity` of the one teacher to learn from: that of the run before,
        or of another rank. Of other kinds it is the first that fits. Replicas that do not fit are
        put aside as long as one fits or may still come.
        `asks_all`: also for rows that the gate gives no weight, so that a cache suits every gate.
        `caller`: the rank, so that those of a run dial all replicas alike; None: a run by itself.
        With `teachers.cache`, a kind of which the Directory lists no replica, or without any
        Directory all, may be the one teacher of that kind whose targets are in the cache.

        Raises:
            TeacherUnavailable: nothing answers at `teachers.directory`, or a kind has no replica.
            ValueError: every replica that is listed has another vocabulary, graph, contract or
                teacher than the run; nothing protects the way to one; the files of `teachers.tls`
                or `token_file` are of no use.
        """
        self.kinds = asked_kinds(distill, kinds)
        self.counters = ClientCounters()
        self._config = config
        self._spans = spans
        self._expected = {
            name: ExpectedRows.of(kind, distill, vocabulary, seed)
            for name, kind in self.kinds.items()
        }
        self._met = MetTeachers(
            self.kinds,
            vocabulary,
            graph_digest,
            held=settled or {},
            temperatures=distill.temperatures,
        )
        self._dispatcher = Dispatcher(
            config, self.counters, tuple(self.kinds), positions_of=DIALOGUE
        )
        # Before the thread: it may refuse what it is given, and a thread would be left behind.
        self._streams = TeacherStreams(
            config,
            self._dispatcher,
            self._met,
            self._expected,
            caller=caller or Caller(run=uuid.uuid4().hex),
            counters=self.counters,
        )
        self._cached: CachedAnswers | None = None
        self._unfinished: set[asyncio.Task[Any]] = set()
        self._loop = Loop("teacher-client")
        try:
            known: Mapping[str, teacher_pb2.Description] = {}
            if config.cache:
                cache = self._open_cache(keeps_all)
                known = teachers_in_cache(
                    cache,
                    self._compressions,
                    temperature=distill.temperature,
                    vocabulary=vocabulary.digest,
                    graph=graph_digest,
                    settled=settled or {},
                )
            self._questions = self._make_questions(distill, asks_all)
            self._loop.run(self._start(known))
        except BaseException:
            self.close()
            raise

    def _open_cache(self, keeps_all: bool) -> TargetCache:
        """The folder of `teachers.cache`, closed with the client."""
        cache = TargetCache(Path(self._config.cache), max_bytes=self._config.cache_bytes)
        self._cached = CachedAnswers(cache, self.counters, waits_for_room=keeps_all)
        return cache

    def _make_questions(self, distill: DistillConfig, asks_all: bool) -> Questions:
        """What is asked, of the cache where there is one, else of the fleet."""
        answers = Answers(
            self._dispatcher,
            self._met.described,
            self._compressions,
            cached=self._cached,
            spans=self._spans,
        )
        return Questions(
            answers,
            self.kinds,
            self._met.described,
            self._expected,
            distill,
            counters=self.counters,
            asks_all=asks_all,
        )

    @property
    def _compressions(self) -> dict[str, teacher_pb2.Compression]:
        return {kind: expected.compression for kind, expected in self._expected.items()}

    @property
    def identity(self) -> dict[str, str]:
        """Kind -> weights digest, dtype and temperature of its replicas."""
        return {kind: name_of(described) for kind, described in self._met.in_order().items()}

    @property
    def limits(self) -> dict[str, InputLimits]:
        """Kind -> what its teacher takes of an example."""
        return {kind: InputLimits.of(it) for kind, it in self._met.in_order().items()}

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        """Request the targets of a micro-batch at a temperature; returns at once.

        Recommendation rows to which the gate gives no weight anywhere in their response are absent.

        The future raises:
            TeacherUnavailable: a kind had no live replica for longer than `teachers.patience_s`, or
                the client was closed.
            WireError: two answers to the same request were broken.
            ValueError: a replica refused the request as malformed.
        """
        return self._loop.start(self._targets(self._questions.inputs(examples, temperature)))

    def close(self) -> None:
        """End all streams and the client's thread; what is not answered yet fails."""
        if self._loop.is_running:
            self._loop.run(self._stop())
            self._loop.close()
            if self._cached is not None:
                self._cached.close()
            if self._spans is not None:
                self._spans.close()

    async def _targets(self, inputs: Inputs) -> Targets:
        """What the teachers say about a micro-batch; the client waits for it when it is closed."""
        task = asyncio.current_task()
        assert task is not None
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return await self._questions.targets(inputs)

    async def _start(self, cached: Mapping[str, teacher_pb2.Description]) -> None:
        """Return once every kind has a replica, or its one teacher in the cache."""
        problem = await self._streams.start()
        if problem and self._expected.keys() - cached.keys():
            raise TeacherUnavailable(
                f"{problem}. Start the teachers (python -m teacher_server up --dialogue DIR "
                "--recommendation DIR), set teachers.directory=HOST:PORT, or teachers.tls and "
                "teachers.token_file as theirs."
            )
        if problem:
            for kind in self._expected:
                self._dispatcher.note_failure(kind, problem)
        self._streams.spawn(self._dispatcher.guard_patience())
        self._rely_on(cached)
        while not self._dispatcher.is_complete():
            if self._dispatcher.fatal is not None:
                raise self._dispatcher.fatal
            self._dispatcher.changed.clear()
            await self._dispatcher.changed.wait()
            self._rely_on(cached)
        # Met once, a kind may be scaled to zero until something is asked of it.
        self._dispatcher.optional_kinds.update(self._expected)

    def _rely_on(self, cached: Mapping[str, teacher_pb2.Description]) -> None:
        """Take the cache's teachers of the kinds of which no replica is listed."""
        for kind in cached.keys() - self._streams.listed_kinds - self._met.described.keys():
            self._met.admit(cached[kind], "in the cache of targets")
            self._dispatcher.optional_kinds.add(kind)
            logger.warning(
                "no %s teacher is listed at %s: cached targets of the weights %s are used",
                *(kind, self._config.directory, cached[kind].weights_digest),
            )

    async def _stop(self) -> None:
        await self._streams.stop()
        await asyncio.gather(*self._unfinished, return_exceptions=True)
