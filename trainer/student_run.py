"""One run of a student: its inputs are checked, it is trained with its teachers, and exported."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.checkpoints.files import CHECKPOINTS_NAME, newest_whole
from trainer.checkpoints.provenance import check_same_run, teachers_before
from trainer.common.cli import once_per_node
from trainer.common.outputs import check_output
from trainer.config.run import RunConfig
from trainer.data.prepared import PreparedData, load_prepared
from trainer.engine.deepspeed_config import deepspeed_config
from trainer.engine.heartbeat import heartbeat
from trainer.engine.own_devices import check_devices
from trainer.engine.ranks import (
    ALONE_S,
    is_first_rank,
    on_all_ranks,
    on_first_rank,
    start_distributed,
    stop_distributed,
)
from trainer.engine.same_ranks import text_of_first_rank
from trainer.export import complete_student, is_finished, resolve_num_steps, train_and_export
from trainer.kinds.names import RECOMMENDATION
from trainer.kinds.table import asked_kinds, known_kinds
from trainer.lookahead import Teachers
from trainer.models.causal_reading import check_pretrained
from trainer.models.frozen import check_frozen
from trainer.models.language_model import check_model_fits
from trainer.models.named_folders import with_weights_digests
from trainer.models.student_card import MODEL_FOLDER
from trainer.security.credentials import read_credentials
from trainer.teacher_client.client import TeacherClient
from trainer.teacher_client.run_id import new_run_id
from trainer.teacher_client.subset import Caller
from trainer.telemetry.spans import Spans

Connect = Callable[[Mapping[str, str], str], Teachers | None]
"""Name -> the one teacher to learn from, by its `identity`, or none; and the id of the run -> the
teachers of a rank."""


def run_student(config: RunConfig, data: PreparedData, connect: Connect) -> None:
    """Join the ranks, connect to the teachers, train, export, and leave."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    patience_s = config.teachers.patience_s + config.teachers.deadline_s
    with heartbeat(patience_s + ALONE_S):
        _run_ranks(config, data, connect, patience_s)


def _run_ranks(config: RunConfig, data: PreparedData, connect: Connect, patience_s: float) -> None:
    start_distributed(patience_s)
    teachers = None
    try:
        folder = Path(config.output) / MODEL_FOLDER
        if is_finished(config, folder):
            on_first_rank(lambda: say_finished(config, folder))
            return
        teachers = connect_all_ranks(config, connect)
        done = train_and_export(config, data, teachers, folder)
        on_first_rank(lambda: complete_student(folder, config, data, done))
    finally:
        if teachers is not None:
            teachers.close()
        stop_distributed()


def connect_all_ranks(config: RunConfig, connect: Connect) -> Teachers | None:
    """Collective: every rank's teachers, the same of each name.

    They are those of the run that is gone on with, else those that the first rank met: where a
    fleet has others too, ranks must not choose each for itself. All have the run id of the first
    rank, and so one share of the fleet together.
    """
    run_id = text_of_first_rank(new_run_id(config.output))

    def connect_first() -> Teachers | None:
        if not is_first_rank():
            return None
        return connect(teachers_before(Path(config.output), resume=config.train.resume), run_id)

    first = on_all_ranks(connect_first)
    settled = json.loads(text_of_first_rank(json.dumps(first.identity if first else {})))
    try:
        others = on_all_ranks(lambda: None if is_first_rank() else connect(settled, run_id))
    except BaseException:
        if first is not None:
            first.close()
        raise
    return first if is_first_rank() else others


def say_finished(config: RunConfig, folder: Path) -> None:
    """Say why there is nothing to do, and what could be done."""
    steps = config.train.num_steps
    newest = newest_whole(Path(config.output) / CHECKPOINTS_NAME)
    if newest is not None and newest.step < steps:
        ending = f"train.patience ended it after step {newest.step} of {steps}"
        remedy = "Start over with train.resume=false."
    else:
        ending = f"all {steps} steps are done"
        remedy = "Raise train.steps to go on, or start over with train.resume=false."
    sys.stdout.write(
        f"the run in {config.output} is finished: {ending}, and its model is in {folder}. "
        f"{remedy}\n"
    )


def connect(
    config: RunConfig, data: PreparedData, settled: Mapping[str, str], run_id: str
) -> TeacherClient | None:
    """A client of the served teachers, of those that are settled; None if gamma is 0."""
    if config.distill.gamma == 0:
        return None
    spans = None
    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if config.watch.spans:
        spans = Spans(config.watch.spans, service="conkd-student", instance=f"rank {rank}")
    return TeacherClient(
        config.teachers,
        config.distill,
        vocabulary=data.vocabulary,
        graph_digest=data.graphs_digest,
        seed=config.seed,
        kinds=known_kinds(config),
        spans=spans,
        settled=settled,
        caller=Caller(run=run_id, rank=rank, num_ranks=num_ranks),
    )


def checked_input(config: RunConfig) -> tuple[RunConfig, PreparedData]:
    """Config with its number of steps, and data; a mistake in them is reported once per node."""
    return once_per_node(lambda: _checked_input(config))


def _checked_input(config: RunConfig) -> tuple[RunConfig, PreparedData]:
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    check_devices()
    asked_kinds(config.distill, known_kinds(config))
    if is_first:
        check_output("output", Path(config.output))
    data = load_prepared(Path(config.data))
    check_model_fits(config.student, data.vocabulary)
    config = with_weights_digests(resolve_num_steps(config, data))
    _check_models(config, data.vocabulary.digest, check_weights=is_first)
    if config.distill.gamma:
        read_credentials(config.teachers, "client")
    deepspeed_config(config, int(os.environ.get("WORLD_SIZE", "1")))
    if config.train.resume:
        check_same_run(Path(config.output), config)
    return config, data


def _check_models(config: RunConfig, vocabulary_digest: str, *, check_weights: bool) -> None:
    """Check the models that the run names; the weights of those that nobody loads, too."""
    if config.student.pretrained is not None:
        check_pretrained(config.student.pretrained, check_weights=check_weights)
    if config.classifier is not None:
        folder = Path(config.classifier)
        check_frozen(folder, "classifier", vocabulary_digest, check_weights=check_weights)
    for name in (config.item_vectors, config.knowledge):
        if name is not None:
            check_frozen(Path(name), RECOMMENDATION, vocabulary_digest, check_weights=False)
