"""A student's teacher client without the student: it keeps requests open and counts answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

from cluster.bench.chaos.trial import CONFIG
from cluster.launch.machine import ROOT
from protos.target_rows import Targets
from trainer.config.run import RunConfig
from trainer.config.teachers import TeachersConfig
from trainer.config.yaml_file import load_config
from trainer.data.examples import Example
from trainer.data.prepared import PreparedData
from trainer.teacher_client.client import TeacherClient
from trainer.telemetry.client_counters import ClientCounters

BATCH = 4
"""Examples of a request."""


class Caller:
    """Asks a client about batch after batch of the training examples."""

    def __init__(self, client: TeacherClient, examples: Sequence[Example]) -> None:
        self.open: set[asyncio.Future[Targets]] = set()
        """What is asked and not answered."""
        self.num_answers = 0
        self.error: BaseException | None = None
        """What a request ended with instead of an answer."""
        self._client = client
        self._batches = _endless_batches(examples)

    @property
    def counters(self) -> ClientCounters:
        """The client's own."""
        return self._client.counters

    def ask(self) -> int:
        """Ask about the next batch; its rows of the dialogue teacher."""
        batch = next(self._batches)
        future: Future[Targets] = self._client.submit(batch)
        answer = asyncio.wrap_future(future)
        self.open.add(answer)
        answer.add_done_callback(self._on_done)
        return sum(len(example.response_ids) for example in batch)

    def ask_rows(self, number: int) -> None:
        """Ask about so many rows at once, or a few more."""
        while number > 0:
            number -= self.ask()

    async def keep_open(self, number: int) -> None:
        """Have so many requests open until cancelled or one fails."""
        while self.error is None:
            while len(self.open) < number:
                self.ask()
            await asyncio.wait(self.open, return_when=asyncio.FIRST_COMPLETED)

    async def finish(self) -> None:
        """Wait for all that is open; raises what a request ended with."""
        while self.open:
            await asyncio.wait(self.open)
        if self.error is not None:
            raise self.error

    def _on_done(self, answer: asyncio.Future[Targets]) -> None:
        self.open.discard(answer)
        if answer.cancelled():
            return
        error = answer.exception()
        self.error = self.error or error
        self.num_answers += error is None


@contextlib.asynccontextmanager
async def calling(
    config: TeachersConfig, data: PreparedData, *, num_open: int = 0
) -> AsyncIterator[Caller]:
    """A caller that keeps so many requests open; its client connects and is closed in a thread."""
    client = await asyncio.to_thread(
        TeacherClient,
        config,
        load_config(RunConfig, ROOT / CONFIG, []).distill,
        vocabulary=data.vocabulary,
        graph_digest=data.graphs_digest,
    )
    caller = Caller(client, data.examples("train"))
    asking = asyncio.create_task(caller.keep_open(num_open)) if num_open else None
    try:
        yield caller
    finally:
        if asking is not None:
            asking.cancel()
        await asyncio.to_thread(client.close)


@contextlib.contextmanager
def client_log(path: Path) -> Iterator[None]:
    """Write what clients in this process warn of to a file: a flap of a full queue is 240 lines."""
    # All loops of a process share gRPC's poller, which complains of a client's that was closed.
    names = (TeacherClient.__module__.rpartition(".")[0], "asyncio")
    loggers, handler = [logging.getLogger(name) for name in names], _log_to(path)
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.propagate = True
            logger.removeHandler(handler)
        handler.close()


def _log_to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _endless_batches(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    starts = range(0, len(examples) - BATCH + 1, BATCH)
    return itertools.cycle([examples[start : start + BATCH] for start in starts])
