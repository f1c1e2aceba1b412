"""Fill a cache with the targets of whole splits, so that runs need no teacher."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from rich.progress import Progress, TaskID

from protos.target_rows import Targets
from trainer.common.errors import InputError, MachineError
from trainer.config.run import RunConfig
from trainer.data.chains import longest_first
from trainer.data.dialogue_share import training_examples
from trainer.data.examples import Example
from trainer.data.prepared import PreparedData, load_prepared
from trainer.kinds.table import asked_kinds, known_kinds
from trainer.models.named_folders import with_weights_digests
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.run_id import new_run_id
from trainer.teacher_client.subset import Caller
from trainer.telemetry.client_counters import ClientCounters

Ahead = collections.deque[tuple[int, Future[Targets]]]
"""Numbers of examples, and the targets of each on their way."""


def build(config: RunConfig, splits: Sequence[str], progress: Progress) -> ClientCounters:
    """Request the targets of every example of `splits` and keep them in `teachers.cache`.

    All rows of every teacher: what is built for one gate serves every other.

    What is there already is not requested again, so a build that was stopped goes on.

    Raises:
        TeacherUnavailable, WireError, ValueError: as a client's; ValueError if nobody is asked.
        MachineError: if an answer could not be kept.
    """
    kinds = asked_kinds(config.distill, known_kinds(config))
    if not kinds:
        raise InputError(
            f"distill.gamma must be above 0 to build a cache, got {config.distill.gamma}: no "
            "teacher is asked. Name the config of the runs that will read it."
        )
    config = with_weights_digests(config)
    data = load_prepared(Path(config.data))
    examples = longest_first(
        [example for split in splits for example in _examples(data, split, config)], in_chains=True
    )
    client = TeacherClient(
        config.teachers,
        config.distill,
        vocabulary=data.vocabulary,
        graph_digest=data.graphs_digest,
        seed=config.seed,
        kinds=kinds,
        keeps_all=True,
        asks_all=True,
        caller=Caller(run=new_run_id(config.teachers.cache)),
    )
    try:
        _ask_all(client, examples, config, progress)
    finally:
        client.close()
    if client.counters.cache_unwritten:
        raise MachineError(
            f"all targets must be kept in {config.teachers.cache}, got "
            f"{client.counters.cache_unwritten} that were not. Raise teachers.cache_bytes, or make "
            "room, and build again: it goes on from here."
        )
    return client.counters


def _examples(data: PreparedData, split: str, config: RunConfig) -> list[Example]:
    """What runs of this config read of a split."""
    return training_examples(data, config.train) if split == "train" else data.examples(split)


def _ask_all(
    client: TeacherClient, examples: Sequence[Example], config: RunConfig, progress: Progress
) -> None:
    size = config.train.batch_size
    task = progress.add_task("targets", total=len(examples))
    ahead: Ahead = collections.deque()
    for start in range(0, len(examples), size):
        batch = examples[start : start + size]
        ahead.append((len(batch), client.submit(batch, config.distill.temperature)))
        if len(ahead) > config.teachers.in_flight:
            _take(ahead, progress, task)
    while ahead:
        _take(ahead, progress, task)


def _take(ahead: Ahead, progress: Progress, task: TaskID) -> None:
    count, pending = ahead.popleft()
    pending.result()
    progress.advance(task, count)
