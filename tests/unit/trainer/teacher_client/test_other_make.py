"""A student's client meets a teacher of another make at the Directory, and takes its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np

from protos.codec import TargetRows
from protos.lease_client import leased
from protos.teacher_pb2 import Endpoint
from teacher_server.fleet.directory_server import DirectoryServer
from tests.support.client_world import SmallVocabulary, dialogue_of_two
from tests.support.other_make import BigramTeacher, describe, start
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.loop import Loop

VOCAB, FIRST_ITEM, NUM_ITEMS, TOP_K = 40, 25, 12, 5
MANIFEST = {
    "vocab_size": VOCAB,
    "base_vocab_size": FIRST_ITEM,
    "num_items": NUM_ITEMS,
    "vocabulary_digest": "vocabulary-a",
}
# The dialogue teacher alone is asked.
DISTILL = DistillConfig(gate="fixed", fixed_lambda=0.0, top_k=TOP_K, values="float32")


@contextlib.contextmanager
def joined(teacher: BigramTeacher) -> Iterator[str]:
    """A real Directory that the teacher has joined; its address."""
    loop, directory = Loop("directory"), None
    server, address = start(teacher)

    async def listen() -> tuple[DirectoryServer, int]:
        started = DirectoryServer(settle_s=0.0, lease_s=600.0)
        return started, await started.start("127.0.0.1", 0)

    about = teacher.about
    endpoint = Endpoint(kind=about.kind, address=address, replica_id=about.replica_id)
    try:
        directory, port = loop.run(listen())
        at = f"127.0.0.1:{port}"
        with leased(lambda: grpc.insecure_channel(at), endpoint):
            yield at
    finally:
        server.stop(0.2).wait()
        if directory is not None:
            loop.run(directory.stop(0.2))
        loop.close()


def received(teacher: BigramTeacher) -> TargetRows:
    vocabulary: Any = SmallVocabulary(
        digest=MANIFEST["vocabulary_digest"],  # type: ignore[arg-type]
        size=VOCAB,
        num_items=NUM_ITEMS,
        first_item_id=FIRST_ITEM,
    )
    with joined(teacher) as directory:
        config = TeachersConfig(directory=directory, connect_s=60.0)
        client = TeacherClient(config, DISTILL, vocabulary=vocabulary, graph_digest="")
        try:
            return client.submit(dialogue_of_two()).result()["dialogue"]
        finally:
            client.close()


def test_client_takes_the_rows_of_a_teacher_that_joined() -> None:
    teacher = BigramTeacher(describe(MANIFEST))
    rows = received(teacher)
    # The token before each of the two responses: both are read in one sequence.
    before = [2, 0, 7, 0, 1]
    assert rows.num_rows == len(before)
    for row, token in enumerate(before):
        exponents = [
            sum(teacher._before_VD[token, d] * teacher._next_DV[d, v] for d in range(8))
            for v in range(VOCAB)
        ]
        probs_V = np.exp(exponents) / np.exp(exponents).sum()
        kept = sorted(np.argsort(-probs_V)[:TOP_K])
        mine = slice(row * TOP_K, (row + 1) * TOP_K)
        assert rows.ids_E[mine].tolist() == kept
        np.testing.assert_allclose(np.exp(rows.log_probs_E[mine]), probs_V[kept], rtol=1e-5)
        np.testing.assert_allclose(rows.tail_R[row], 1 - probs_V[kept].sum(), atol=1e-6)
        items = probs_V[FIRST_ITEM : FIRST_ITEM + NUM_ITEMS].sum()
        np.testing.assert_allclose(rows.item_mass_R[row], items, atol=1e-6)
