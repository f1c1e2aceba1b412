"""Asks the served teachers for targets, ahead of the step that needs them.

One client lives in every rank. It watches the Directory and holds one Score stream to every
replica; `dispatch` decides which of them gets a request. Scoring is a pure function of its input,
so a request may be sent twice; its answer is taken once. Nothing here falls back: a request ends
with the rows asked for or with an error.

All gRPC runs on one event loop in a thread of its own; `submit` and `Pending.result` are called
from the training thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np

from protos import codec, teacher_pb2
from trainer.config import DistillConfig, TeachersConfig
from trainer.conkd import TeacherTargets
from trainer.data.examples import Example
from trainer.data.model_input import ExampleInput, dialogue_input, recommendation_input
from trainer.data.vocabulary import Vocabulary
from trainer.dispatch import ClientCounters
from trainer.teacher_streams import TeacherStreams

# 59 MB uncompressed and at worst, which fits into a server's largest reply.
MAX_REPLY_ENTRIES = 1 << 22

ResultT = TypeVar("ResultT")


class Pending:
    """Targets that were asked for and may not have arrived yet."""

    def __init__(self, parts: dict[str, list[concurrent.futures.Future[codec.TargetRows]]]) -> None:
        self._parts = parts

    def result(self) -> TeacherTargets:
        """Wait for the targets.

        Raises:
            TeacherUnavailable: a kind had no live replica for longer than `teachers.patience_s`.
            WireError: two answers to the same request were broken.
            ValueError: a replica refused the request, or serves another vocabulary.
        """
        return TeacherTargets(
            dialogue=codec.concat_rows([part.result() for part in self._parts["dialogue"]]),
            recommendation=codec.concat_rows(
                [part.result() for part in self._parts["recommendation"]]
            ),
        )


class TeacherClient:
    """submit(examples) -> Pending, over all live replicas of both kinds."""

    def __init__(
        self,
        config: TeachersConfig,
        distill: DistillConfig,
        *,
        vocabulary: Vocabulary,
        graph_digest: str,
    ) -> None:
        """Connect and wait until both kinds have a replica of the right vocabulary and graph.

        Raises:
            TeacherUnavailable: nothing answers at `teachers.directory`, or a kind has no replica.
            ValueError: a replica serves another vocabulary or numbers entities differently; nothing
                protects the way to it; the files of `teachers.tls` or `token_file` are of no use.
        """
        self.counters = ClientCounters()
        self._distill = distill
        self._vocabulary = vocabulary
        self._ids = itertools.count(1)
        # First: it may refuse what it is given, and a thread would be left behind.
        self._streams = TeacherStreams(config, vocabulary, graph_digest, self.counters)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="teacher-client", daemon=True
        )
        self._thread.start()
        try:
            self._run(self._streams.start())
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> dict[str, str]:
        """Kind -> weights digest and temperature of its replicas."""
        known = self._streams.identity
        return {kind: f"{digest} at temperature {t:g}" for kind, (digest, t) in known.items()}

    @property
    def max_tokens(self) -> int:
        """Longest input of one example that the dialogue teacher takes."""
        return self._streams.input_limits["dialogue"].max_tokens

    def submit(self, examples: Sequence[Example]) -> Pending:
        """Ask both teachers about a micro-batch; returns at once.

        A question whose reply could exceed the servers' limit is asked in parts: whole rows of a
        large vocabulary are 0.5 MB each.
        """
        top_k = self._distill.top_k or self._vocabulary.size
        limits = self._streams.input_limits
        dialogue = [
            self._ask(
                "dialogue",
                [dialogue_input(example, limits["dialogue"]) for example in part],
                self._compression(self._distill.top_k, 1.0),
            )
            for part in split_by_rows(examples, max(1, MAX_REPLY_ENTRIES // top_k))
        ]
        recommendation = self._ask(
            "recommendation",
            [recommendation_input(example, limits["recommendation"]) for example in examples],
            self._compression(
                self._distill.recommendation_top_k, self._distill.recommendation_top_p
            ),
        )
        return Pending({"dialogue": dialogue, "recommendation": [recommendation]})

    def close(self) -> None:
        """End all streams and the client's thread."""
        if self._thread.is_alive():
            self._run(self._streams.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _ask(
        self,
        kind: str,
        inputs: list[ExampleInput],
        compression: teacher_pb2.Compression,
    ) -> concurrent.futures.Future[codec.TargetRows]:
        limits = self._streams.input_limits[kind]
        columns: dict[str, bytes] = {}
        for name, taken, rows in (
            ("token", limits.max_tokens, [each.tokens for each in inputs]),
            ("entity", limits.max_entities, [each.entities for each in inputs]),
            ("word", limits.max_words, [each.words for each in inputs]),
        ):
            if taken:
                columns[f"{name}_ids"] = np.concatenate(rows).astype("<i4").tobytes()
                columns[f"{name}_lengths"] = np.array([len(r) for r in rows], "<i4").tobytes()
        targets = [each.num_targets for each in inputs]
        message = teacher_pb2.ScoreRequest(
            request_id=next(self._ids),
            target_lengths=np.array(targets, "<i4").tobytes(),
            compression=compression,
            **columns,
        )
        question = self._streams.dispatcher.score(kind, message, sum(targets))
        return asyncio.run_coroutine_threadsafe(question, self._loop)

    def _compression(self, top_k: int, top_p: float) -> teacher_pb2.Compression:
        values: str = teacher_pb2.ValueFormat.Name(self._distill.value_format)  # type: ignore[arg-type]
        if self._distill.tail == "sampled":
            return teacher_pb2.Compression(samples=top_k, values=values)
        return teacher_pb2.Compression(top_k=top_k, top_p=top_p, values=values)

    def _run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def split_by_rows(examples: Sequence[Example], max_rows: int) -> list[Sequence[Example]]:
    """Runs of examples with at most max_rows response positions each, or one example."""
    parts: list[list[Example]] = [[]]
    rows = 0
    for example in examples:
        rows += len(example.response_ids)
        if parts[-1] and rows > max_rows:
            parts.append([])
            rows = len(example.response_ids)
        parts[-1].append(example)
    return list(parts)
