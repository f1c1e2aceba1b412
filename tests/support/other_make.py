"""A dialogue teacher of another make: bigrams of rank 8, in numpy behind gRPC. No Ray, no torch.

    python -m tests.support.other_make --data PREPARED [--directory HOST:PORT]

It prints its address. docs/own_teacher.md goes through it. R rows, E entries, V vocabulary.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from protos import codec, limits
from protos.compression import check_compression
from protos.handshake import handshake_mismatch
from protos.lease_client import leased
from protos.target_rows import ITEM_MASS, TargetRows
from protos.teacher_pb2 import Compression, Description, Endpoint, ScoreError, ScoreReply
from protos.teacher_pb2_grpc import TeacherServicer, add_TeacherServicer_to_server
from protos.version import WIRE_VERSION
from tests.support.other_make_requests import wanted_ranges

OPTIONS = [
    ("grpc.max_receive_message_length", 2 * limits.MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
]
# Students ping to notice a dead teacher; by default a server allows one in five minutes.
PING_MS = 2_000


def describe(manifest: Mapping[str, Any]) -> Description:
    """Of the data that students were prepared with."""
    return Description(
        kind="dialogue",
        replica_id=secrets.token_hex(8),
        wire_version=WIRE_VERSION,
        vocab_size=manifest["vocab_size"],
        first_item_id=manifest["base_vocab_size"],
        num_items=manifest["num_items"],
        vocabulary_digest=manifest["vocabulary_digest"],
        weights_digest="bigrams-of-seed-0",
        temperature=1.0,
        max_tokens=1024,
        dtype="float32",
        capabilities=["ranges"],
        masses=[ITEM_MASS],
    )


class BigramTeacher(TeacherServicer):
    """P(next | token before): softmax of the product of two tables."""

    def __init__(self, about: Description) -> None:
        self.about = about
        random = np.random.default_rng(0)
        self._before_VD = random.normal(size=(about.vocab_size, 8))
        self._next_DV = random.normal(size=(8, about.vocab_size))

    def Describe(self, request: Any, context: Any) -> Description:
        return self.about

    def Score(self, requests: Iterator[Any], context: Any) -> Iterator[ScoreReply]:
        if mismatch := handshake_mismatch(context.invocation_metadata(), self.about):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, mismatch)
        for request in requests:
            try:
                block = codec.encode(self._rows(request), request.compression.values)
                yield ScoreReply(request_id=request.request_id, block=block)
            except ValueError as refused:
                error = ScoreError(code=ScoreError.INVALID_ARGUMENT, message=str(refused))
                yield ScoreReply(request_id=request.request_id, error=error)

    def _rows(self, request: Any) -> TargetRows:
        """A row for every token of every range."""
        asked = request.compression
        check_compression(asked)
        rows: list[tuple[np.ndarray, np.ndarray, float, float]] = []
        for prefix, length in wanted_ranges(request, self.about):
            generator = np.random.default_rng([asked.seed, *prefix])
            rows += [self._row(token, asked, generator) for token in prefix[-length:]]
        ids, kept, tails, item_masses = zip(*rows, strict=True)
        return TargetRows(
            counts_R=np.array([len(it) for it in ids], np.int32),
            ids_E=np.concatenate(ids).astype(np.int32),
            log_probs_E=np.log(np.concatenate(kept)).astype(np.float32),
            tail_R=np.array(tails, np.float32),
            masses={ITEM_MASS: np.array(item_masses, np.float32)},
            vocab_size=self.about.vocab_size,
        )

    def _row(
        self, before: int, asked: Compression, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Kept ids, their probabilities, the tail, and the mass of all items before the cut."""
        scores_V = self._before_VD[before] @ self._next_DV
        probs_V = np.exp(scores_V - scores_V.max())
        probs_V /= probs_V.sum()
        first = self.about.first_item_id
        item_mass = min(1.0, probs_V[first : first + self.about.num_items].sum())
        if asked.samples:
            drawn = generator.choice(len(probs_V), asked.samples, p=probs_V)
            ids, times = np.unique(drawn, return_counts=True)
            return ids, times / asked.samples, 0.0, item_mass
        ids = np.sort(largest(probs_V, asked))
        return ids, probs_V[ids], np.delete(probs_V, ids).sum(), item_mass


def largest(probs_V: np.ndarray, asked: Compression) -> np.ndarray:
    """The ids that a cut keeps."""
    order = np.argsort(-probs_V, kind="stable")[: asked.top_k or None]
    if 0 < asked.top_p < 1:
        order = order[: np.searchsorted(probs_V[order].cumsum(), asked.top_p) + 1]
    return order


def start(teacher: BigramTeacher, ping_ms: int = PING_MS) -> tuple[grpc.Server, str]:
    """A server on a free port of this machine, and its address."""
    options = [*OPTIONS, ("grpc.http2.min_ping_interval_without_data_ms", ping_ms)]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
    add_TeacherServicer_to_server(teacher, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    return server, address


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--directory")
    arguments = parser.parse_args()
    about = describe(json.loads((arguments.data / "manifest.json").read_text()))
    server, address = start(BigramTeacher(about))
    endpoint = Endpoint(kind=about.kind, address=address, replica_id=about.replica_id)
    lease = contextlib.nullcontext()
    if arguments.directory:
        lease = leased(lambda: grpc.insecure_channel(arguments.directory), endpoint)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with lease:
        print(address, flush=True)
        stopped.wait()
    # Nothing new comes: students have been told. What they asked is answered.
    server.stop(grace=5).wait()


if __name__ == "__main__":
    main()
