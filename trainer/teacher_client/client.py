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
from trainer.kinds.asked import asked_teachers
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
from trainer.teacher_client.run_id import new_run_id
from trainer.teacher_client.streams import TeacherStreams
from trainer.teacher_client.subset import Caller
from trainer.teacher_client.target_requests import Inputs, TargetRequests
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.spans import Spans

logger = logging.getLogger(__name__)


class TeacherClient:
    """submit(examples) -> a future of their targets, over a subset of every teacher's replicas."""

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
        """Connect and wait until each teacher that is asked has a replica of the right data.

        `seed`: of the run; sampled rows are drawn by it.
        `kinds`: the table of kinds; `distill` says which of them are asked, and of which teachers.
        `spans` gets one for each request to a teacher, and is closed with the client.
        `keeps_all`: no answer may pass the cache unwritten while it has room; rather they wait.
        `settled`: name -> the `identity` of the one teacher to learn from: that of the run before,
        or of another rank. Of other names it is the first that fits. Replicas that do not fit are
        put aside as long as one fits or may still come.
        `asks_all`: also for rows that the gate gives no weight, so that a cache suits every gate.
        `caller`: the rank, so that those of a run have one share of the teachers together and
        dial all replicas alike; None: a run by itself.
        With `teachers.cache`, a teacher of which the Directory lists no replica, or without any
        Directory all, may be the one that fits whose targets are in the cache.

        Raises:
            TeacherUnavailable: nothing answers at `teachers.directory`, or a teacher has no
                replica.
            ValueError: every replica that is listed has another vocabulary, graph, contract or
                teacher than the run; nothing protects the way to one; the files of `teachers.tls`
                or `token_file` are of no use.
        """
        self.kinds = asked_kinds(distill, kinds)
        self.counters = ClientCounters()
        self._config = config
        self._caller = caller or Caller(run=new_run_id("client"))
        self._spans = spans
        self._teachers = asked_teachers(distill, kinds)
        self._expected = {
            name: ExpectedRows.of(teacher.kind, distill, vocabulary, seed)
            for name, teacher in self._teachers.items()
        }
        self._met = MetTeachers(
            self._teachers,
            vocabulary,
            graph_digest,
            held=settled or {},
            temperatures=distill.temperatures,
        )
        self._dispatcher = Dispatcher(
            config, self.counters, self._met.kind_of, positions_of=DIALOGUE
        )
        # Before the thread: it may refuse what it is given, and a thread would be left behind.
        self._streams = TeacherStreams(
            config,
            self._dispatcher,
            self._met,
            self._expected,
            caller=self._caller,
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
                    self._teachers,
                    self._compressions,
                    temperature=distill.temperature,
                    vocabulary=vocabulary.digest,
                    graph=graph_digest,
                    settled=settled or {},
                )
            self._requests = self._make_requests(distill, asks_all)
            self._loop.run(self._start(known))
        except BaseException:
            self.close()
            raise

    def _open_cache(self, keeps_all: bool) -> TargetCache:
        """The folder of `teachers.cache`, closed with the client."""
        cache = TargetCache(Path(self._config.cache), max_bytes=self._config.cache_bytes)
        self._cached = CachedAnswers(cache, self.counters, waits_for_room=keeps_all)
        return cache

    def _make_requests(self, distill: DistillConfig, asks_all: bool) -> TargetRequests:
        """What is asked, of the cache where there is one, else of the fleet."""
        answers = Answers(
            self._dispatcher,
            self._met.described,
            self._compressions,
            cached=self._cached,
            spans=self._spans,
            run_id=self._caller.run,
            priority=self._config.priority,
        )
        return TargetRequests(
            answers,
            self._teachers,
            self._met.described,
            self._expected,
            distill,
            counters=self.counters,
            asks_all=asks_all,
        )

    @property
    def _compressions(self) -> dict[str, teacher_pb2.Compression]:
        return {name: expected.compression for name, expected in self._expected.items()}

    @property
    def identity(self) -> dict[str, str]:
        """Name of a teacher -> weights digest, dtype and temperature of its replicas."""
        return {name: name_of(described) for name, described in self._met.in_order().items()}

    @property
    def limits(self) -> dict[str, InputLimits]:
        """Name of a teacher -> what it takes of an example."""
        return {name: InputLimits.of(it) for name, it in self._met.in_order().items()}

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        """Request the targets of a micro-batch at a temperature; returns at once.

        Recommendation rows to which the gate gives no weight anywhere in their response are absent.

        The future raises:
            TeacherUnavailable: a teacher had no live replica for longer than `teachers.patience_s`,
                or the client was closed.
            WireError: two answers to the same request were broken.
            ValueError: a replica refused the request as malformed.
        """
        return self._loop.start(self._targets(self._requests.inputs(examples, temperature)))

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
        return await self._requests.targets(inputs)

    async def _start(self, cached: Mapping[str, teacher_pb2.Description]) -> None:
        """Return once every teacher has a replica, or is the one that fits in the cache."""
        problem = await self._streams.start()
        if problem and self._expected.keys() - cached.keys():
            raise TeacherUnavailable(
                f"{problem}. Start the teachers (python -m teacher_server up --dialogue DIR "
                "--recommendation DIR), set teachers.directory=HOST:PORT, or teachers.tls and "
                "teachers.token_file as theirs."
            )
        if problem:
            for name in self._expected:
                self._dispatcher.note_failure(name, problem)
        self._streams.spawn(self._dispatcher.guard_patience())
        self._rely_on(cached)
        while not self._dispatcher.is_complete() and self._dispatcher.fatal is None:
            self._dispatcher.changed.clear()
            await self._dispatcher.changed.wait()
            self._rely_on(cached)
        if self._dispatcher.fatal is not None:
            raise self._dispatcher.fatal
        # Met once, a teacher may be scaled to zero until something is asked of it.
        self._dispatcher.optional.update(self._expected)

    def _rely_on(self, cached: Mapping[str, teacher_pb2.Description]) -> None:
        """Take the cache's teachers of which no replica is listed."""
        for name in cached.keys() - self._streams.listed_names - self._met.described.keys():
            self._met.admit(cached[name], "in the cache of targets")
            self._dispatcher.optional.add(name)
            logger.warning(
                "no %s teacher is listed at %s: cached targets of the weights %s are used",
                *(name, self._config.directory, cached[name].weights_digest),
            )

    async def _stop(self) -> None:
        await self._streams.stop()
        await asyncio.gather(*self._unfinished, return_exceptions=True)
