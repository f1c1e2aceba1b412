"""Distil a student from served teachers.

    deepspeed [--num_accelerators N] trainer/main.py --config FILE [key=value ...]

With distill.gamma=0 no teacher is asked: the same student, trained on gold tokens alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from trainer.checkpoints.provenance import check_same_run
from trainer.common.cli import ReportedByOtherRank, run_rank
from trainer.common.errors import UserError
from trainer.common.outputs import check_output
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.prepared import PreparedData, load_prepared
from trainer.engine.deepspeed_config import deepspeed_config
from trainer.engine.own_devices import check_devices
from trainer.engine.ranks import on_all_ranks, on_first_rank, start_distributed, stop_distributed
from trainer.export import is_finished, resolve_num_steps, train_and_export
from trainer.kinds.names import RECOMMENDATION
from trainer.kinds.table import asked_kinds, known_kinds
from trainer.lookahead import Teachers
from trainer.models.frozen import check_frozen
from trainer.models.language_model import check_model_fits
from trainer.models.student_card import (
    MODEL_FOLDER,
    StudentCard,
    write_student_card,
)
from trainer.security.credentials import read_credentials
from trainer.teacher_client.client import TeacherClient
from trainer.telemetry.spans import Spans


def main(argv: list[str]) -> None:
    """Parse, then run with the served teachers, or with none if gamma is 0."""
    config, data = checked_input(argv)
    run_student(config, data, lambda: _connect(config, data))


def run_student(
    config: RunConfig, data: PreparedData, connect: Callable[[], Teachers | None]
) -> None:
    """Join the ranks, connect to the teachers, train, export, and leave."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    start_distributed(config.teachers.patience_s + config.teachers.deadline_s)
    teachers = None
    try:
        folder = Path(config.output) / MODEL_FOLDER
        if is_finished(config, folder):
            on_first_rank(lambda: _say_finished(config, folder))
            return
        teachers = on_all_ranks(connect)
        done = train_and_export(config, data, teachers, folder)
        card = StudentCard(
            vocabulary_digest=data.vocabulary.digest,
            graph_digest=data.graphs_digest if any(done.model.knowledge_size) else "",
            action_tokens=config.action_tokens,
            classifier=_from_folder(config.classifier, folder),
            gamma=config.distill.gamma,
            steps=done.steps,
        )
        on_first_rank(lambda: write_student_card(folder, card))
    finally:
        if teachers is not None:
            teachers.close()
        stop_distributed()


def _say_finished(config: RunConfig, folder: Path) -> None:
    sys.stdout.write(
        f"the run in {config.output} is finished: all {config.train.num_steps} steps are done, and "
        f"its model is in {folder}. Raise train.steps to go on, or start over with "
        "train.resume=false.\n"
    )


def _from_folder(path: str | None, folder: Path) -> str | None:
    """The path as seen from the exported folder, so that both can be moved or copied together."""
    return None if path is None else os.path.relpath(path, folder)


def _connect(config: RunConfig, data: PreparedData) -> TeacherClient | None:
    if config.distill.gamma == 0:
        return None
    spans = None
    if config.watch.spans:
        rank = os.environ.get("RANK", "0")
        spans = Spans(config.watch.spans, service="conkd-student", instance=f"rank {rank}")
    return TeacherClient(
        config.teachers,
        config.distill,
        vocabulary=data.vocabulary,
        graph_digest=data.graphs_digest,
        seed=config.seed,
        kinds=known_kinds(config),
        spans=spans,
    )


def checked_input(argv: list[str]) -> tuple[RunConfig, PreparedData]:
    """Config and data; a mistake in them is reported once per node, not once per rank."""
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        config = parse(argv)
        check_devices()
        asked_kinds(config.distill, known_kinds(config))
        if is_first:
            check_output("output", Path(config.output))
        data = load_prepared(Path(config.data))
        check_model_fits(config.student, data.vocabulary)
        config = resolve_num_steps(config, data)
        _check_models(config, data.vocabulary.digest, check_weights=is_first)
        if config.distill.gamma:
            read_credentials(config.teachers, "client")
        deepspeed_config(config, int(os.environ.get("WORLD_SIZE", "1")))
        if config.train.resume:
            check_same_run(Path(config.output), config)
        return config, data
    except (UserError, OSError):
        if is_first:
            raise
        raise ReportedByOtherRank from None


def _check_models(config: RunConfig, vocabulary_digest: str, *, check_weights: bool) -> None:
    """Check the frozen models that the run names; the weights of those that nobody loads, too."""
    if config.classifier is not None:
        folder = Path(config.classifier)
        check_frozen(folder, "classifier", vocabulary_digest, check_weights=check_weights)
    for name in (config.item_vectors, config.knowledge):
        if name is not None:
            check_frozen(Path(name), RECOMMENDATION, vocabulary_digest, check_weights=False)


def parse(argv: list[str]) -> RunConfig:
    """The run's config from the command line."""
    parser = argparse.ArgumentParser(
        prog="trainer/main.py", description="Distil a student from served teachers."
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file of a RunConfig")
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. distill.gamma=0")
    arguments = parser.parse_intermixed_args(argv)
    return load_config(RunConfig, arguments.config, arguments.overrides)


if __name__ == "__main__":
    run_rank(main)
